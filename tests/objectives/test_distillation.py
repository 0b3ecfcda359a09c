"""Distillation beside plain float64 statements and sentence-transformers' MarginMSELoss."""

import numpy as np
import pytest
import torch

from simjax.objectives.config import DistillationConfig
from simjax.objectives.distillation import Distillation
from simjax.types import NO_TEXT
from tests.objectives.drawn import (
    assert_gradient,
    assert_sharded_is_whole,
    examples,
    value_and_grad,
)


def drawn(width=8):
    rng = np.random.default_rng(6)
    student = rng.normal(size=(16, 3, 8)).astype(np.float32)
    teacher = rng.normal(size=(16, 3, width)).astype(np.float32)
    teacher /= np.linalg.norm(teacher, axis=-1, keepdims=True)
    ids = np.arange(48, dtype=np.int32).reshape(16, 3)
    ids[4, 2] = NO_TEXT
    student[4, 2] = teacher[4, 2] = 0
    return student, teacher, ids


def dense(target, student, teacher, ids):
    """The target, in float64."""
    norms = np.linalg.norm(student.astype(np.float64), axis=-1, keepdims=True)
    s, t = student / np.maximum(norms, 1e-30), teacher.astype(np.float64)
    there = ids != NO_TEXT
    if target == "similarity":
        s, t = s[there], t[there]
        return ((s @ s.T - t @ t.T) ** 2).mean()
    if target == "embedding":
        return ((s[there] - t[there]) ** 2).mean()
    if target == "cosine":
        return (1 - (s[there] * t[there]).sum(-1)).mean()
    margin = [(x[:, 0] * (x[:, 1] - x[:, 2])).sum(-1) for x in (s, t)]
    return ((margin[0] - margin[1]) ** 2)[there[:, 2]].mean()


@pytest.mark.parametrize("target", ["similarity", "embedding", "cosine", "margin"])
def test_it_is_the_target(target):
    student, teacher, ids = drawn(8 if target in ("embedding", "cosine") else 5)
    objective = Distillation(DistillationConfig(teacher="any", target=target, weight=100.0))
    given = examples(student, ids=ids, frozen=teacher)
    loss, _, grad = value_and_grad(objective, {}, given)
    np.testing.assert_allclose(loss, 100 * dense(target, student, teacher, ids), rtol=1e-5)
    for place in ((0, 0, 1), (3, 1, 2), (9, 2, 0)):
        step = np.zeros(student.shape)
        step[place] = 1e-5
        slope = [dense(target, student + sign * step, teacher, ids) for sign in (1, -1)]
        wanted = 100 * (slope[0] - slope[1]) / 2e-5
        assert abs(grad[place] - wanted) <= 1e-5 * np.abs(grad).max()
    assert not grad[4, 2].any()
    assert_sharded_is_whole(objective, {}, given)


def test_margins_are_those_of_sentence_transformers():
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MarginMSELoss
    from sentence_transformers.util import pairwise_cos_sim

    student, teacher, _ = drawn(5)
    student[4, 2], teacher[4, 2] = student[5, 2], teacher[5, 2]
    objective = Distillation(DistillationConfig(teacher="any", target="margin"))
    loss, _, grad = value_and_grad(objective, {}, examples(student, frozen=teacher))
    theirs = torch.tensor(student.astype(np.float64), requires_grad=True)
    t = teacher.astype(np.float64)
    margins = (t[:, 0] * (t[:, 1] - t[:, 2])).sum(-1)
    peer = MarginMSELoss(SentenceTransformer(modules=[torch.nn.Identity()]), pairwise_cos_sim)
    wanted = peer.compute_loss_from_embeddings(
        [theirs[:, n] for n in range(3)], torch.tensor(margins)
    )
    wanted.backward()
    np.testing.assert_allclose(loss, wanted.item(), rtol=1e-5)
    assert_gradient(grad, theirs.grad.numpy())
