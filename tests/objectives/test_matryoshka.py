"""Nested widths beside sentence-transformers' MatryoshkaLoss."""

import jax
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses as peers

from simjax.errors import UsageError
from simjax.objectives.config import (
    ContrastiveConfig,
    CosentConfig,
    MatryoshkaConfig,
    TensionConfig,
    TripletConfig,
)
from simjax.objectives.contrastive import Contrastive
from simjax.objectives.matryoshka import Matryoshka
from simjax.objectives.ranking import Ranking
from simjax.objectives.tension import Tension
from simjax.objectives.triplet import Triplet
from simjax.objectives.uniformity import Views
from tests.objectives.drawn import (
    assert_gradient,
    assert_sharded_is_whole,
    examples,
    value_and_grad,
)

WIDTH = 8
NESTED = MatryoshkaConfig((2, WIDTH, 4), (0.5, 1.0, 2.0))
CONTRAST = Contrastive(ContrastiveConfig(directions="forward"), Views(1, True, 16))


def drawn(views):
    rng = np.random.default_rng(7)
    vectors = (3 * rng.normal(size=(16, views, WIDTH))).astype(np.float32)
    return vectors, rng.integers(0, 6, 16).astype(np.float32)


def given_embeddings():
    """A model whose inputs are their embeddings."""
    return SentenceTransformer(modules=[torch.nn.Identity()])


def columns(x):
    return [{"sentence_embedding": x[:, view]} for view in range(x.shape[1])]


@pytest.mark.parametrize(
    ("objective", "views", "kind"),
    [
        (CONTRAST, 3, peers.MultipleNegativesRankingLoss),
        (Ranking(CosentConfig()), 2, peers.CoSENTLoss),
    ],
    ids=["contrastive", "cosent"],
)
def test_cosines_of_each_width_are_those_of_sentence_transformers(objective, views, kind):
    vectors, scores = drawn(views)
    given = examples(vectors, scores=scores)
    loss, _, grad = value_and_grad(Matryoshka(objective, NESTED), {}, given)
    theirs = torch.tensor(vectors.astype(np.float64), requires_grad=True)
    model = given_embeddings()
    peer = peers.MatryoshkaLoss(model, kind(model), [*NESTED.dimensions], [*NESTED.weights])
    wanted = peer(columns(theirs), torch.tensor(scores.astype(np.float64)))
    wanted.backward()
    np.testing.assert_allclose(loss, wanted.item(), rtol=1e-5)
    assert_gradient(grad, theirs.grad.numpy())


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective", [CONTRAST, Triplet(TripletConfig())], ids=["contrastive", "triplet"]
)
def test_devices_make_no_difference(objective):
    assert_sharded_is_whole(Matryoshka(objective, NESTED), {}, examples(drawn(3)[0]))


@pytest.mark.parametrize("distance", ["euclidean", "manhattan", "cosine"])
def test_distances_of_each_width_are_those_of_sentence_transformers(distance):
    vectors, _ = drawn(3)
    config = TripletConfig(margin=1.5, distance=distance)
    loss, _, grad = value_and_grad(Matryoshka(Triplet(config), NESTED), {}, examples(vectors))
    theirs = torch.tensor(vectors.astype(np.float64), requires_grad=True)
    model = given_embeddings()
    metric = getattr(peers.TripletDistanceMetric, distance.upper())
    triplet = peers.TripletLoss(model, metric, triplet_margin=1.5)
    peer = peers.MatryoshkaLoss(model, triplet, [*NESTED.dimensions], [*NESTED.weights])
    wanted = peer(columns(theirs), None)
    wanted.backward()
    np.testing.assert_allclose(loss, wanted.item(), rtol=1e-5)
    assert_gradient(grad, theirs.grad.numpy())


def test_dot_products_are_those_of_unit_vectors_of_each_width():
    """Those of Contrastive Tension, of each sentence with itself and the one that follows it."""
    vectors, _ = drawn(2)
    nested = Matryoshka(Tension(TensionConfig(negatives=1), len(vectors)), NESTED)
    loss, _, grad = value_and_grad(nested, {}, examples(vectors, views=1))
    theirs = torch.tensor(vectors.astype(np.float64), requires_grad=True)
    wanted = torch.zeros((), dtype=torch.float64)
    for dimension, weight in zip(NESTED.dimensions, NESTED.weights, strict=True):
        cut = torch.nn.functional.normalize(theirs[..., :dimension], dim=-1)
        same, next_one = ((cut[:, 0] * torch.roll(cut[:, 1], -step, 0)).sum(-1) for step in (0, 1))
        values = torch.nn.functional.softplus(torch.stack([-same, next_one]))
        wanted = wanted + weight * values.sum()
    wanted.backward()
    np.testing.assert_allclose(loss, wanted.item(), rtol=1e-5)
    assert_gradient(grad, theirs.grad.numpy())


def test_metrics_are_those_of_the_whole_width_and_each_loss():
    given = examples(drawn(3)[0])
    metrics = jax.jit(Matryoshka(CONTRAST, NESTED).loss)({}, given)[1]
    whole = jax.jit(CONTRAST.loss)({}, given)[1]
    np.testing.assert_allclose(metrics["alignment"], whole["alignment"], rtol=1e-6)
    np.testing.assert_allclose(metrics["loss_8"], whole["loss"], rtol=1e-6)
    summed = 0.5 * metrics["loss_2"] + metrics["loss_8"] + 2 * metrics["loss_4"]
    np.testing.assert_allclose(metrics["loss"], summed, rtol=1e-6)


@pytest.mark.parametrize(
    ("dimensions", "weights"),
    [((), ()), ((4, 4), ()), ((0, 4), ()), ((4, 2), (1.0,)), ((4, 2), (1.0, 0.0))],
)
def test_what_are_no_widths_is_refused(dimensions, weights):
    with pytest.raises(UsageError, match=r"objective.matryoshka\.(dimensions|weights)"):
        MatryoshkaConfig(dimensions, weights)
