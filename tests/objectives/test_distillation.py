"""Distillation beside sentence-transformers' losses, and all pairs in float64."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses as peers
from sentence_transformers.util import pairwise_cos_sim

from simjax.errors import UsageError
from simjax.objectives.config import DistillationConfig
from simjax.objectives.distillation import Distillation
from simjax.types import NO_TEXT
from tests.objectives.drawn import (
    assert_gradient,
    assert_sharded_is_whole,
    examples,
    value_and_grad,
)

TARGETS = ["similarity", "embedding", "cosine", "margin", "kl"]


def drawn(width=8):
    """Sixteen examples of two hard negatives, which some of them lack, and one that is none."""
    rng = np.random.default_rng(6)
    student = rng.normal(size=(16, 4, 8)).astype(np.float32)
    teacher = rng.normal(size=(16, 4, width)).astype(np.float32)
    teacher /= np.linalg.norm(teacher, axis=-1, keepdims=True)
    ids = np.arange(64, dtype=np.int32).reshape(16, 4)
    ids[4, 2] = ids[5, 3] = ids[9, 2] = ids[9, 3] = ids[12] = NO_TEXT
    student[ids == NO_TEXT] = teacher[ids == NO_TEXT] = 0
    return student, teacher, ids


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def all_pairs(s, t):
    s = unit(s)
    return ((s @ s.T - t @ t.T) ** 2).mean()


def of_texts(kind, **options):
    """A loss of one column of embeddings."""

    def loss(model, s, t):
        return kind(model, **options).compute_loss_from_embeddings([s], [t])

    return loss


def margins(model, s, t, there):
    """Of every hard negative that is there, as a triplet."""
    rows, views = np.nonzero(there[:, 2:])
    triplets = [(x[rows, 0], x[rows, 1], x[rows, views + 2]) for x in (s, t)]
    anchors, positives, negatives = triplets[1]
    labels = (anchors * positives).sum(-1) - (anchors * negatives).sum(-1)
    peer = peers.MarginMSELoss(model, pairwise_cos_sim)
    return peer.compute_loss_from_embeddings([*triplets[0]], labels)


def divergence(model, s, t, there, temperature):
    """Of the examples with both hard negatives, and of those with one, by their numbers."""
    given = {} if temperature is None else {"temperature": temperature}
    peer = peers.DistillKLDivLoss(model, pairwise_cos_sim, **given)
    total, count = 0, 0
    for views in ([1, 2, 3], [1, 2], [1, 3]):
        lacking = [view for view in (1, 2, 3) if view not in views]
        rows = np.flatnonzero(there[:, views].all(1) & ~there[:, lacking].any(1))
        scores = torch.stack([(t[rows, 0] * t[rows, view]).sum(-1) for view in views], dim=1)
        columns = [s[rows, view] for view in (0, *views)]
        total = total + len(rows) * peer.compute_loss_from_embeddings(columns, scores)
        count += len(rows)
    assert count == 14  # one has no hard negative, and one is none
    return total / count


def reference(config, student, teacher, ids):
    """The loss in float64, and its gradient."""
    leaf = torch.tensor(student.astype(np.float64), requires_grad=True)
    t, there = torch.tensor(teacher.astype(np.float64)), ids != NO_TEXT
    model = SentenceTransformer(modules=[torch.nn.Identity()])
    if config.target == "similarity":
        loss = all_pairs(leaf[there], t[there])
    elif config.target == "embedding":
        loss = of_texts(peers.MSELoss)(model, unit(leaf)[there], t[there])
    elif config.target == "cosine":
        kind = of_texts(peers.EmbedDistillLoss, distance_metric="cosine")
        loss = kind(model, leaf[there], t[there])
    elif config.target == "margin":
        loss = margins(model, leaf, t, there)
    else:
        loss = divergence(model, leaf, t, there, config.temperature)
    loss = config.weight * loss
    loss.backward()
    return loss.item(), leaf.grad.numpy()


@pytest.mark.parametrize("target", TARGETS)
def test_value_and_gradient_are_those_of_the_target(target):
    student, teacher, ids = drawn(8 if target in ("embedding", "cosine") else 5)
    config = DistillationConfig(teacher="any", target=target, weight=100.0)
    given = examples(student, ids=ids, frozen=teacher)
    loss, _, grad = value_and_grad(Distillation(config), {}, given)
    wanted, wanted_grad = reference(config, student, teacher, ids)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    assert_gradient(grad, wanted_grad)
    assert not grad[ids == NO_TEXT].any()
    assert_sharded_is_whole(Distillation(config), {}, given)


@pytest.mark.parametrize(
    ("temperature", "distance"), [(0.005, 1.0), (0.1, 1e-2), (1.0, 1e-2), (20.0, 1.0)]
)
def test_divergences_of_any_temperature_and_of_a_student_close_to_its_teacher(
    temperature, distance
):
    """A sum of t log(t / s) loses the value in float32 where t and s are all but equal."""
    drawn_at, teacher, ids = drawn()
    student = (teacher + distance * drawn_at).astype(np.float32)
    config = DistillationConfig(teacher="any", target="kl", temperature=temperature)
    given = examples(student, ids=ids, frozen=teacher)
    loss, _, grad = value_and_grad(Distillation(config), {}, given)
    wanted, wanted_grad = reference(config, student, teacher, ids)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    assert_gradient(grad, wanted_grad)


def test_an_anchor_whose_positive_is_alone_counts_not():
    student, teacher, ids = drawn()
    objective = Distillation(DistillationConfig(teacher="any", target="kl"))
    loss, _, grad = value_and_grad(objective, {}, examples(student, ids=ids, frozen=teacher))
    assert not grad[9].any() and grad[8].any()
    others = np.arange(16) != 9
    rest = examples(student[others], ids=ids[others], frozen=teacher[others])
    np.testing.assert_allclose(loss, value_and_grad(objective, {}, rest)[0], rtol=1e-6)
    alone = examples(student[9:10], ids=ids[9:10], frozen=teacher[9:10])
    loss, _, grad = value_and_grad(objective, {}, alone)
    assert loss == 0 and not grad.any()


def test_an_embedding_that_is_no_number_makes_the_divergence_none():
    student, teacher, ids = drawn()
    student[3, 2, 0] = np.nan
    objective = Distillation(DistillationConfig(teacher="any", target="kl"))
    loss, _, _ = value_and_grad(objective, {}, examples(student, ids=ids, frozen=teacher))
    assert np.isnan(loss)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(UsageError, match=r"objective\.temperature"):
        DistillationConfig(teacher="any", target="kl", temperature=temperature)


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "kl"])
def test_a_temperature_of_what_has_none_is_refused(target):
    with pytest.raises(UsageError, match=f"objective.target is {target}, for which it means"):
        DistillationConfig(teacher="any", target=target, temperature=0.5)
