"""The objective against plain float64 statements, PyTorch and sentence-transformers."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from simjax.errors import UsageError
from simjax.objectives.config import ContrastiveConfig
from simjax.objectives.contrastive import contrastive_loss
from simjax.objectives.uniformity import Views
from tests.objectives.definition import Definition
from tests.objectives.drawn import assert_gradient

pytestmark = pytest.mark.usefixtures("strict_promotion")


def embeddings(n=12, views=2, width=10, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, views, width))
    x[:, 1:] += 1.5 * x[:, :1]
    return x.astype(np.float32)


def distinct_ids(n, views):
    return np.arange(n * views, dtype=np.int32).reshape(n, views)


@cache
def compiled(config, views):
    """Loss and metrics, and the gradient, of embeddings, ids and labels."""

    def loss(x, ids, labels):
        scale, example = jnp.float32(1 / config.temperature), jnp.arange(len(x))
        return contrastive_loss(x, ids, labels, example, scale, config, views)

    return jax.jit(loss), jax.jit(jax.value_and_grad(loss, has_aux=True))


def ours(x, config, *, ids=None, labels=None, positives=1, one_distribution=False):
    n, views, _ = x.shape
    ids = distinct_ids(n, views) if ids is None else ids
    labels = np.full(n, -1, np.int32) if labels is None else labels
    _, grad = compiled(config, Views(positives, one_distribution, n))
    (value, _), gradient = grad(*map(jnp.asarray, (x, ids, labels)))
    return value, gradient


def metrics_of(x, config, ids, *, positives=1, one_distribution=False):
    loss, _ = compiled(config, Views(positives, one_distribution, len(x)))
    _, metrics = loss(jnp.asarray(x), jnp.asarray(ids), jnp.full(len(x), -1))
    return {name: float(value) for name, value in metrics.items()}


def shared_ids(n, views, seed=1):
    """Texts that come back: in other examples, as anchors of others, and some that are absent."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, n * views // 2, (n, views)).astype(np.int32)
    ids[:, 2:][rng.random((n, views - 2)) < 0.2] = -1
    return ids


def repeated(positives):
    """Vectors of texts that come back, or are absent; their ids; and classes, some unknown."""
    ids = shared_ids(10, 2 + positives)
    x = np.where((ids == -1)[..., None], 0, embeddings(n=10, views=2 + positives))
    labels = np.random.default_rng(2).integers(-1, 4, 10).astype(np.int32)
    return x.astype(np.float32), ids, labels


@pytest.mark.parametrize("directions", ["forward", "symmetric", "joint", "views"])
@pytest.mark.parametrize(("rule", "positives"), [("none", 2), ("text", 2), ("label", 1)])
def test_value_and_gradient_are_the_definition_s_in_float64(directions, rule, positives):
    """The gradient is that of every vector: of anchors, positives and hard negatives."""
    x, ids, labels = repeated(positives)
    gradients = {}
    for loss in ("infonce", "dcl", "flatnce"):
        config = ContrastiveConfig(
            loss=loss, directions=directions, false_negatives=rule, hard_negative_weight=2.5
        )
        value, gradients[loss] = ours(x, config, ids=ids, labels=labels, positives=positives)
        definition = Definition(x, config, ids, labels, positives)
        expected = definition.loss()
        np.testing.assert_allclose(float(value), expected, rtol=2e-6, atol=2e-6, err_msg=loss)
        wanted = definition.gradient()
        assert (np.abs(wanted).max(axis=(0, 2)) > 1e-3).all()  # texts of all three kinds
        assert_gradient(gradients[loss], wanted)
    np.testing.assert_array_equal(gradients["flatnce"], gradients["dcl"])


@pytest.mark.parametrize("directions", ["forward", "symmetric", "joint", "views"])
def test_infonce_has_the_gradient_of_dcl_with_each_anchor_weighed_by_sigmoid(directions):
    x, ids, labels = repeated(2)
    config = ContrastiveConfig(directions=directions)
    weights = []

    def weighed(v, direction):
        # GTE's partition counts the positive twice.
        weights.append(torch.sigmoid(v.detach() - (np.log(2) if direction == "joint" else 0)))
        return weights[-1] * v

    wanted = Definition(x, config, ids, labels, 2).gradient(weighed)
    assert 0 < min(weights) < 0.5 * max(weights)  # or one number would do for all anchors
    assert_gradient(ours(x, config, ids=ids, labels=labels, positives=2)[1], wanted)


def torch_gradient(x, loss):
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    value = loss([leaf[:, view] for view in range(x.shape[1])])
    value.backward()
    return value.item(), leaf.grad.numpy()


@pytest.mark.parametrize("views", [2, 3, 4])
@pytest.mark.parametrize(
    ("directions", "theirs"),
    [
        ("forward", {}),
        (
            "symmetric",
            {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
        ),
        (
            "joint",
            {
                "directions": ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"),
                "partition_mode": "joint",
            },
        ),
    ],
)
def test_it_is_the_multiple_negatives_ranking_loss(directions, theirs, views):
    x = embeddings(views=views)
    peer = MultipleNegativesRankingLoss(model=None, scale=20.0, **theirs)
    expected, gradient = torch_gradient(x, lambda v: peer.compute_loss_from_embeddings(v, None))
    config = ContrastiveConfig(directions=directions, false_negatives="none")
    value, grad = ours(x, config)
    np.testing.assert_allclose(float(value), expected, rtol=1e-6)
    assert_gradient(grad, gradient)


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_hard_negatives_weigh_as_in_supervised_simcse(weight):
    x = embeddings(views=3)

    def simcse(views):
        anchor, positive, hard = (torch.nn.functional.normalize(v, dim=-1) for v in views)
        logits = torch.cat([anchor @ positive.T, anchor @ hard.T], dim=1) / 0.05
        own = torch.cat([torch.zeros(len(x), len(x)), torch.eye(len(x))], dim=1)
        logits = logits + np.log(weight) * own
        return torch.nn.functional.cross_entropy(logits, torch.arange(len(x)))

    expected, gradient = torch_gradient(x, simcse)
    config = ContrastiveConfig(hard_negative_weight=weight, false_negatives="none")
    value, grad = ours(x, config)
    np.testing.assert_allclose(float(value), expected, rtol=1e-6)
    assert_gradient(grad, gradient)


@pytest.mark.parametrize("loss", ["infonce", "dcl", "flatnce"])
@pytest.mark.parametrize("directions", ["forward", "symmetric", "joint", "views"])
def test_rows_without_negatives_are_zero_and_never_nan(loss, directions):
    x = embeddings(n=4)
    ids = np.zeros((4, 2), np.int32)  # one text everywhere
    value, grad = ours(x, ContrastiveConfig(loss=loss, directions=directions), ids=ids)
    limit = np.log(2) if directions == "joint" and loss == "infonce" else 0.0
    np.testing.assert_allclose(float(value), limit, rtol=1e-6)
    assert np.all(np.asarray(grad) == 0)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("loss", ["infonce", "dcl", "flatnce"])
@pytest.mark.parametrize("directions", ["forward", "symmetric", "joint", "views"])
@pytest.mark.parametrize("temperature", [0.05, 0.01])  # the bounded form, and the online one
def test_an_embedding_that_is_no_number_makes_the_loss_none(loss, directions, temperature):
    """It must not pass for a row without negatives, whose loss is 0."""
    x = embeddings(n=4, views=3)
    config = ContrastiveConfig(loss=loss, directions=directions, temperature=temperature)
    for view in range(3):
        spoilt = x.copy()
        spoilt[1, view, 0] = np.nan
        value, grad = ours(spoilt, config)
        assert np.isnan(float(value)) and np.isnan(grad).any()


def test_infonce_counts_rows_without_negatives_and_dcl_does_not():
    x = embeddings(n=4)
    ids = distinct_ids(4, 2)
    alone = ids.copy()
    alone[0, 0] = alone[1, 0] = alone[2, 0] = 5  # these three share an anchor text ...
    alone[3, 1] = 5  # ... which is also the positive of the fourth
    config = ContrastiveConfig(loss="dcl")
    metrics = metrics_of(x, config, alone)
    assert metrics["without_negatives"] == 3
    labels = np.full(4, -1)
    for loss in ("dcl", "infonce"):
        config = ContrastiveConfig(loss=loss)
        value, _ = ours(x, config, ids=alone)
        expected = Definition(x, config, alone, labels, 1).loss()
        np.testing.assert_allclose(float(value), expected, rtol=1e-5)


def test_the_gradient_of_a_dominant_positive_is_not_cancelled():
    """The float32 cross-entropy form is off by tens of percent here (arXiv 2107.01152)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 2, 384))
    x[:, 1] = x[:, 0] + 0.3 * x[:, 1]
    x = x.astype(np.float32)
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    unit = torch.nn.functional.normalize(leaf, dim=-1)
    logits = unit[:, 0] @ unit[:, 1].T / 0.05
    torch.nn.functional.cross_entropy(logits, torch.arange(64)).backward()
    exact = leaf.grad.numpy()
    _, grad = ours(x, ContrastiveConfig())
    error = np.linalg.norm(grad - exact) / np.linalg.norm(exact)
    assert error < 2e-5


def test_metrics_are_what_their_names_say():
    x = embeddings(n=8)
    ids = distinct_ids(8, 2)
    ids[3, 0] = ids[4, 0]
    unit = x.astype(np.float64) / np.linalg.norm(x, axis=-1, keepdims=True)
    config = ContrastiveConfig()
    metrics = metrics_of(x, config, ids)
    squared = ((unit[:, 0] - unit[:, 1]) ** 2).sum(-1)
    np.testing.assert_allclose(metrics["alignment"], squared.mean(), rtol=1e-5)
    definition = Definition(x, config, ids, np.full(8, -1), 1)
    log_odds = [definition.log_odds(i, 1, "forward").item() for i in range(8)]
    np.testing.assert_allclose(metrics["mean_v"], np.mean(log_odds), rtol=1e-5)
    cosine = unit[:, 0] @ unit[:, 1].T
    best = [
        cosine[i, i] > max(cosine[i, j] for j in range(8) if definition.negative((i, 0), (j, 1)))
        for i in range(8)
    ]
    np.testing.assert_allclose(metrics["accuracy"], np.mean(best))

    def uniformity(a, b, keep):
        d = ((a[:, None] - b[None]) ** 2).sum(-1)
        return np.log(np.exp(-2 * d)[keep].mean())

    different = ~np.eye(8, dtype=bool)
    text = ids[:, 0]
    across = uniformity(unit[:, 0], unit[:, 1], different & (text[:, None] != ids[:, 1][None]))
    within = uniformity(unit[:, 0], unit[:, 0], text[:, None] != text[None])
    np.testing.assert_allclose(metrics["uniformity_cross"], across, rtol=1e-5)
    np.testing.assert_allclose(metrics["uniformity"], within, rtol=1e-5)
    same = metrics_of(x, config, ids, one_distribution=True)
    np.testing.assert_allclose(same["uniformity"], across, rtol=1e-5)
    assert "uniformity_cross" not in same


def test_a_learned_scale_has_the_gradient_of_torch():
    x = embeddings()
    config = ContrastiveConfig(learnable_temperature=True, false_negatives="none")
    args = (jnp.asarray(distinct_ids(12, 2)), jnp.full(12, -1), jnp.arange(12))

    def loss(scale):
        return contrastive_loss(jnp.asarray(x), *args, scale, config, Views(1, False, 12))[0]

    value, grad = jax.jit(jax.value_and_grad(loss))(jnp.float32(17.0))
    scale = torch.tensor(17.0, dtype=torch.float64, requires_grad=True)
    unit = torch.nn.functional.normalize(torch.tensor(x, dtype=torch.float64), dim=-1)
    expected = torch.nn.functional.cross_entropy(
        unit[:, 0] @ unit[:, 1].T * scale, torch.arange(12)
    )
    expected.backward()
    np.testing.assert_allclose(float(value), expected.item(), rtol=1e-6)
    np.testing.assert_allclose(float(grad), scale.grad.item(), rtol=2e-5)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"temperature": 0.0}, "objective.temperature"),
        ({"temperature": 0.001}, "objective.max_scale"),
        ({"loss": "dcl", "learnable_temperature": True}, "objective.learnable_temperature"),
        ({"hard_negative_weight": 0.0}, "objective.hard_negative_weight"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(options, key):
    with pytest.raises(UsageError, match=key):
        ContrastiveConfig(**options)
