"""Cosines fitted to scores, beside a float64 statement and sentence-transformers' loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from simjax.errors import UsageError
from simjax.objectives.config import CosineConfig
from simjax.objectives.objective import Examples
from simjax.objectives.regression import CosineRegression


def examples(vectors, scores):
    n = len(vectors)
    return Examples(
        vectors=jnp.asarray(vectors),
        ids=jnp.arange(2 * n, dtype=jnp.int32).reshape(n, 2),
        labels=jnp.full(n, -1, jnp.int32),
        scores=jnp.asarray(scores),
        number=jnp.arange(n, dtype=jnp.int32),
        frozen=None,
    )


def drawn(n=12):
    rng = np.random.default_rng(0)
    vectors = (3 * rng.normal(size=(n, 2, 16))).astype(np.float32)
    return vectors, rng.uniform(0, 5, n).astype(np.float32)


def test_value_and_gradient_are_those_of_sentence_transformers():
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

    vectors, scores = drawn()
    objective = CosineRegression(CosineConfig(score_range=(0.0, 5.0)))

    def loss(vectors):
        return objective.loss({}, examples(vectors, scores))[0]

    value, grad = jax.value_and_grad(loss)(jnp.asarray(vectors))
    theirs = torch.tensor(vectors.astype(np.float64), requires_grad=True)
    peer = CosineSimilarityLoss(SentenceTransformer(modules=[torch.nn.Identity()]))
    wanted = peer.compute_loss_from_embeddings(
        [theirs[:, 0], theirs[:, 1]], torch.tensor(scores.astype(np.float64) / 5)
    )
    wanted.backward()
    np.testing.assert_allclose(value, wanted.item(), rtol=1e-5)
    np.testing.assert_allclose(grad, theirs.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_pairs_without_a_score_do_not_count():
    vectors, scores = drawn()
    objective = CosineRegression(CosineConfig(score_range=(0.0, 5.0)))
    some = objective.loss({}, examples(vectors[:7], scores[:7]))[1]["loss"]
    scores[7:] = np.nan
    loss, slope = jax.value_and_grad(lambda x: objective.loss({}, examples(x, scores))[0])(
        jnp.asarray(vectors)
    )
    np.testing.assert_allclose(loss, some, rtol=1e-6)
    assert np.isfinite(slope).all() and not slope[7:].any()


@pytest.mark.parametrize("wrong", [(), (0.0,), (1.0, 0.0), (0.0, 1.0, 2.0), (0.0, float("inf"))])
def test_what_is_no_range_is_refused(wrong):
    with pytest.raises(UsageError, match=r"objective.score_range is .*: give two numbers"):
        CosineConfig(score_range=wrong)
