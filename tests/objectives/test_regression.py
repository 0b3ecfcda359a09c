"""Cosines fitted to scores, beside a float64 statement and sentence-transformers' loss."""

import numpy as np
import pytest
import torch

from simjax.errors import UsageError
from simjax.objectives.config import CosineConfig
from simjax.objectives.regression import CosineRegression
from tests.objectives.drawn import (
    assert_gradient,
    assert_sharded_is_whole,
    examples,
    value_and_grad,
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

    given = examples(vectors, scores=scores)
    value, _, grad = value_and_grad(objective, {}, given)
    theirs = torch.tensor(vectors.astype(np.float64), requires_grad=True)
    peer = CosineSimilarityLoss(SentenceTransformer(modules=[torch.nn.Identity()]))
    wanted = peer.compute_loss_from_embeddings(
        [theirs[:, 0], theirs[:, 1]], torch.tensor(scores.astype(np.float64) / 5)
    )
    wanted.backward()
    np.testing.assert_allclose(value, wanted.item(), rtol=1e-5)
    assert_gradient(grad, theirs.grad.numpy())
    assert_sharded_is_whole(objective, {}, given)


def test_pairs_without_a_score_do_not_count():
    vectors, scores = drawn()
    objective = CosineRegression(CosineConfig(score_range=(0.0, 5.0)))
    some, _, _ = value_and_grad(objective, {}, examples(vectors[:7], scores=scores[:7]))
    scores[7:] = np.nan
    loss, _, slope = value_and_grad(objective, {}, examples(vectors, scores=scores))
    np.testing.assert_allclose(loss, some, rtol=1e-6)
    assert np.isfinite(slope).all() and not slope[7:].any()


@pytest.mark.parametrize("wrong", [(), (0.0,), (1.0, 0.0), (0.0, 1.0, 2.0), (0.0, float("inf"))])
def test_what_is_no_range_is_refused(wrong):
    with pytest.raises(UsageError, match=r"objective.score_range is .*: give two numbers"):
        CosineConfig(score_range=wrong)
