"""CoSENT and AnglE: beside all pairs in float64 and sentence-transformers, ties, and memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from simjax.objectives.config import AngleConfig, CosentConfig
from simjax.objectives.ranking import Ranking, angle
from simjax.ops import ranking_loss
from tests.objectives.drawn import (
    assert_gradient,
    assert_sharded_is_whole,
    examples,
    value_and_grad,
)


def all_pairs(scores, gold):
    """log(1 + sum of exp(s_j - s_i) over gold_i > gold_j), and its gradient, from a matrix."""
    s = scores.astype(np.float64)
    terms = np.where(gold[:, None] > gold[None, :], np.exp(s[None, :] - s[:, None]), 0.0)
    share = terms / (1 + terms.sum())
    return np.log1p(terms.sum()), share.sum(axis=0) - share.sum(axis=1)


@pytest.mark.parametrize("kinds", [2, 5, 40])
def test_the_operator_is_the_sum_over_pairs_in_the_wrong_order(kinds):
    rng = np.random.default_rng(kinds)
    scores = (20 * rng.uniform(-1, 1, 40)).astype(np.float32)
    gold = rng.integers(0, kinds, 40).astype(np.float32) / 3
    loss, slope = jax.value_and_grad(ranking_loss)(scores, gold)
    wanted, wanted_slope = all_pairs(scores, gold)
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)
    assert_gradient(slope, wanted_slope)


def test_without_an_order_there_is_no_loss():
    scores = np.asarray([3.0, -2.0, 1.0], np.float32)
    loss, slope = jax.value_and_grad(ranking_loss)(scores, np.ones(3, np.float32))
    assert loss == 0 and not slope.any()


def test_a_million_scores_take_no_matrix():
    shape = jax.ShapeDtypeStruct((1_000_000,), jnp.float32)
    program = jax.jit(jax.value_and_grad(ranking_loss)).lower(shape, shape).compile()
    assert program.memory_analysis().temp_size_in_bytes < 100e6


@pytest.mark.parametrize("config", [CosentConfig(), AngleConfig()], ids=["cosent", "angle"])
def test_value_and_gradient_are_those_of_sentence_transformers(config):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import AnglELoss, CoSENTLoss

    rng = np.random.default_rng(0)
    vectors = (3 * rng.normal(size=(16, 2, 12))).astype(np.float32)
    scores = rng.integers(0, 6, 16).astype(np.float32)
    given = examples(vectors, scores=scores)
    loss, _, grad = value_and_grad(Ranking(config), {}, given)
    theirs = torch.tensor(vectors.astype(np.float64), requires_grad=True)
    peer = {"cosent": CoSENTLoss, "angle": AnglELoss}[config.name]
    wanted = peer(SentenceTransformer(modules=[torch.nn.Identity()])).compute_loss_from_embeddings(
        [theirs[:, 0], theirs[:, 1]], torch.tensor(scores)
    )
    wanted.backward()
    np.testing.assert_allclose(loss, wanted.item(), rtol=1e-5)
    assert_gradient(grad, theirs.grad.numpy())
    assert_sharded_is_whole(Ranking(config), {}, given)


def test_an_odd_width_has_no_angle():
    with pytest.raises(ValueError, match="odd width 3"):
        angle(jnp.ones((2, 3)), jnp.ones((2, 3)))
