"""Triplets beside sentence-transformers' TripletLoss."""

import numpy as np
import pytest
import torch

from simjax.objectives.config import TripletConfig
from simjax.objectives.triplet import Triplet
from simjax.types import NO_TEXT
from tests.objectives.drawn import (
    assert_gradient,
    assert_sharded_is_whole,
    examples,
    value_and_grad,
)

METRICS = {"euclidean": "EUCLIDEAN", "cosine": "COSINE", "manhattan": "MANHATTAN"}


@pytest.mark.parametrize("distance", METRICS)
def test_value_and_gradient_are_those_of_sentence_transformers(distance):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import (
        TripletDistanceMetric,
        TripletLoss,
    )

    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(16, 3, 8)).astype(np.float32)
    margin = 0.3 if distance == "cosine" else 1.5
    objective = Triplet(TripletConfig(margin=margin, distance=distance))
    given = examples(vectors)
    loss, _, grad = value_and_grad(objective, {}, given)
    theirs = torch.tensor(vectors.astype(np.float64), requires_grad=True)
    peer = TripletLoss(
        SentenceTransformer(modules=[torch.nn.Identity()]),
        getattr(TripletDistanceMetric, METRICS[distance]),
        margin,
    )
    wanted = peer.compute_loss_from_embeddings([theirs[:, n] for n in range(3)], torch.zeros(16))
    wanted.backward()
    np.testing.assert_allclose(loss, wanted.item(), rtol=1e-5)
    assert_gradient(grad, theirs.grad.numpy())
    assert 0 < (grad == 0).all(axis=(1, 2)).sum() < 16  # some triplets are far enough apart
    assert_sharded_is_whole(objective, {}, given)


def test_an_absent_negative_makes_no_triplet():
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(6, 4, 8)).astype(np.float32)
    ids = np.arange(24, dtype=np.int32).reshape(6, 4)
    ids[4:, 3] = NO_TEXT
    objective = Triplet(TripletConfig(margin=5.0))
    loss, _, _ = value_and_grad(objective, {}, examples(vectors, ids=ids))
    d = np.linalg.norm(vectors[:, :1].astype(np.float64) - vectors[:, 1:] + 1e-6, axis=2)
    every = np.maximum(d[:, :1] - d[:, 1:] + 5.0, 0)
    np.testing.assert_allclose(loss, (every[:, 0].sum() + every[:4, 1].sum()) / 10, rtol=1e-5)
