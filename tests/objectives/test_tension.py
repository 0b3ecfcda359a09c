"""Contrastive Tension beside sentence-transformers' two losses."""

import copy

import jax
import numpy as np
import pytest
import torch

from simjax.objectives.config import InBatchTensionConfig, TensionConfig
from simjax.objectives.tension import InBatchTension, Tension
from tests.objectives.drawn import (
    assert_gradient,
    assert_sharded_is_whole,
    examples,
    value_and_grad,
)


def drawn(n=16):
    rng = np.random.default_rng(5)
    return (0.4 * rng.normal(size=(n, 2, 8))).astype(np.float32)


def peer(name, first, second):
    """The loss, with one tower's vectors and the other's for what they embed."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses

    class Given(SentenceTransformer):
        def forward(self, features, **_):
            return {"sentence_embedding": features[self.key]}

    model = Given(modules=[torch.nn.Identity()])
    model.key = "second"
    loss = getattr(losses, name)(model).double()
    loss.model1 = copy.copy(model)
    loss.model1.key = "first"
    return loss, {"first": first, "second": second}


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_pairs_are_told_as_sentence_transformers_tells_them(reduction):
    vectors, block, negatives = drawn(), 8, 3
    objective = Tension(TensionConfig(negatives=negatives, reduction=reduction), block)
    given = examples(vectors, views=1)
    loss, _, grad = value_and_grad(objective, {}, given)
    theirs = torch.tensor(vectors.astype(np.float64), requires_grad=True)
    of = [
        (start + i, start + (i + step) % block, float(step == 0))
        for start in (0, 8)
        for i in range(block)
        for step in range(negatives + 1)
    ]
    i, j, labels = (list(x) for x in zip(*of, strict=True))
    criterion, features = peer("ContrastiveTensionLoss", theirs[i, 0], theirs[j, 1])
    wanted = criterion([features, features], torch.tensor(labels))
    if reduction == "mean":
        wanted = wanted / len(of)
    wanted.backward()
    np.testing.assert_allclose(loss, wanted.item(), rtol=1e-5)
    assert_gradient(grad, theirs.grad.numpy())
    assert_sharded_is_whole(Tension(TensionConfig(negatives=3, reduction=reduction), 4), {}, given)


def test_equal_sentences_are_no_two():
    vectors = drawn(4)
    ids = np.asarray([[0], [1], [0], [2]], np.int32)
    objective = Tension(TensionConfig(negatives=2), 4)
    loss, _, _ = value_and_grad(objective, {}, examples(vectors, ids=ids))
    x, y = vectors[:, 0].astype(np.float64), vectors[:, 1].astype(np.float64)
    wanted = sum(np.logaddexp(0, -(x[i] @ y[i])) for i in range(4))
    for i in range(4):
        for step in (1, 2):
            j = (i + step) % 4
            if ids[i] != ids[j]:
                wanted += np.logaddexp(0, x[i] @ y[j])
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)


def test_in_batch_it_is_symmetric_cross_entropy():
    vectors = drawn()
    objective = InBatchTension.of(InBatchTensionConfig(), 4, np.float32, None)
    params = objective.init(8, jax.random.key(0))
    given = examples(vectors, views=1)
    loss, slopes, grad = value_and_grad(objective, params, given)
    theirs = torch.tensor(vectors.astype(np.float64), requires_grad=True)
    criterion, features = peer("ContrastiveTensionLossInBatchNegatives", theirs[:, 0], theirs[:, 1])
    wanted = criterion([features], None)
    wanted.backward()
    np.testing.assert_allclose(loss, wanted.item(), rtol=1e-5)
    assert_gradient(grad, theirs.grad.numpy())
    np.testing.assert_allclose(slopes["log_scale"], criterion.logit_scale.grad.item(), rtol=1e-5)
    assert_sharded_is_whole(objective, params, given)
