"""Classes of pairs: beside sentence-transformers' SoftmaxLoss, and R-Drop beside its formula."""

import jax
import numpy as np
import pytest
import torch

from simjax.errors import UsageError
from simjax.objectives.classification import SoftmaxClassification, space_of
from simjax.objectives.config import RDropConfig, SoftmaxConfig
from tests.objectives.drawn import (
    assert_gradient,
    assert_sharded_is_whole,
    examples,
    value_and_grad,
)

WIDTH, CLASSES = 12, ("yes", "no", "maybe")


def drawn(views, n=16):
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(n, views, WIDTH)).astype(np.float32)
    return vectors, rng.integers(0, len(CLASSES), n).astype(np.int32)


def with_params(config):
    objective = SoftmaxClassification(config, CLASSES)
    params = objective.init(WIDTH, jax.random.key(0))
    params["classifier"] = jax.tree.map(lambda x: x + 0.1, params["classifier"])
    params["classifier"]["kernel"] *= 5
    return objective, params


def test_value_and_gradient_are_those_of_sentence_transformers():
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import SoftmaxLoss

    class Given(SentenceTransformer):
        def forward(self, features, **_):
            return {"sentence_embedding": features["vectors"]}

    vectors, labels = drawn(2)
    objective, params = with_params(SoftmaxConfig())
    given = examples(vectors, labels=labels)
    loss, of_params, of_vectors = value_and_grad(objective, params, given)
    peer = SoftmaxLoss(Given(modules=[torch.nn.Identity()]), WIDTH, len(CLASSES)).double()
    layer = params["classifier"]
    with torch.no_grad():
        peer.classifier.weight.copy_(torch.tensor(np.asarray(layer["kernel"]).T))
        peer.classifier.bias.copy_(torch.tensor(np.asarray(layer["bias"])))
    theirs = torch.tensor(vectors.astype(np.float64), requires_grad=True)
    wanted = peer(
        [{"vectors": theirs[:, 0]}, {"vectors": theirs[:, 1]}], torch.tensor(labels).long()
    )
    wanted.backward()
    np.testing.assert_allclose(loss, wanted.item(), rtol=1e-5)
    assert_gradient(of_vectors, theirs.grad.numpy())
    found = of_params["classifier"]
    assert_gradient(found["kernel"], peer.classifier.weight.grad.numpy().T)
    assert_gradient(found["bias"], peer.classifier.bias.grad.numpy())
    assert_sharded_is_whole(objective, params, given)


def dense_r_drop(vectors, labels, kernel, weight, form):
    """The two cross-entropies and the two divergences, in float64, by PyTorch."""
    p, q = (
        torch.log_softmax(torch.cat([u, v, torch.abs(u - v)], 1) @ kernel, 1)
        for u, v in ((vectors[:, 0], vectors[:, 1]), (vectors[:, 2], vectors[:, 3]))
    )
    rows = torch.arange(len(labels))
    entropies = -p[rows, labels] - q[rows, labels]
    divergence = (p.exp() * (p - q)).sum(1) + (q.exp() * (q - p)).sum(1)
    if form == "repository":
        entropies = entropies / 2
    return (entropies + weight * divergence / 2).mean()


@pytest.mark.parametrize("form", ["paper", "repository"])
def test_r_drop_adds_the_divergences_of_two_passes(form):
    vectors, labels = drawn(4)
    objective, params = with_params(SoftmaxConfig(use_bias=False, r_drop=RDropConfig(4.0, form)))
    assert objective.passes == 2 and "bias" not in params["classifier"]
    given = examples(vectors, labels=labels, views=2)
    loss, of_params, of_vectors = value_and_grad(objective, params, given)
    theirs, kernel = (
        torch.tensor(np.asarray(x, np.float64), requires_grad=True)
        for x in (vectors, params["classifier"]["kernel"])
    )
    wanted = dense_r_drop(theirs, torch.tensor(labels).long(), kernel, 4.0, form)
    wanted.backward()
    np.testing.assert_allclose(loss, wanted.item(), rtol=1e-5)
    assert_gradient(of_vectors, theirs.grad.numpy())
    assert_gradient(of_params["classifier"]["kernel"], kernel.grad.numpy())
    assert_sharded_is_whole(objective, params, given)


def test_examples_without_a_class_do_not_count():
    vectors, labels = drawn(2)
    objective, params = with_params(SoftmaxConfig())
    some, _, _ = value_and_grad(objective, params, examples(vectors[:9], labels=labels[:9]))
    labels[9:] = -1
    loss, _, slope = value_and_grad(objective, params, examples(vectors, labels=labels))
    np.testing.assert_allclose(loss, some, rtol=1e-6)
    assert not slope[9:].any()


@pytest.mark.parametrize("r_drop", [None, RDropConfig(2.0)])
def test_classes_compete_within_their_space(r_drop):
    """As if each space had a layer of its own: the layer's columns for its classes."""
    vectors, labels = drawn(4 if r_drop else 2)
    config = SoftmaxConfig(r_drop=r_drop, label_spaces=(("yes", "no"), ("maybe", "never")))
    objective, params = with_params(config)
    given = examples(vectors, labels=labels, views=2)
    loss, _, grad = value_and_grad(objective, params, given)
    total = 0.0
    for space in ([0, 1], [2]):
        own = np.isin(labels, space)
        cut = SoftmaxClassification(SoftmaxConfig(r_drop=r_drop), tuple(CLASSES[n] for n in space))
        layer = jax.tree.map(lambda x, space=space: x[..., np.asarray(space)], params)
        renumbered = np.searchsorted(space, labels[own]).astype(np.int32)
        part = examples(vectors[own], labels=renumbered, views=2)
        total += own.sum() * value_and_grad(cut, layer, part)[0]
    np.testing.assert_allclose(loss, total / len(labels), rtol=1e-5)
    assert np.isfinite(grad).all() and not grad[labels == 2].any()
    assert_sharded_is_whole(objective, params, given)


def test_a_class_is_in_one_space():
    with pytest.raises(UsageError, match="'maybe' of the data is in none of the spaces"):
        space_of("maybe", (("yes",), ("no",)))
    with pytest.raises(UsageError, match="'yes' of the data is in 2 of the spaces"):
        space_of("yes", (("yes",), ("yes", "no")))
