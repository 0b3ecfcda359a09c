"""Nested widths: the weighted sum of an objective of the first numbers."""

import numpy as np
import pytest

from simjax.errors import UsageError
from simjax.objectives.config import ContrastiveConfig, MatryoshkaConfig
from simjax.objectives.contrastive import Contrastive
from simjax.objectives.matryoshka import Matryoshka
from simjax.objectives.uniformity import Views
from tests.objectives.drawn import (
    assert_gradient,
    assert_sharded_is_whole,
    examples,
    value_and_grad,
)


@pytest.mark.slow
def test_each_width_has_its_own_loss_and_gradient():
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(16, 2, 8)).astype(np.float32)
    contrast = Contrastive(ContrastiveConfig(), Views(1, True, 16))
    objective = Matryoshka(contrast, MatryoshkaConfig((2, 8, 4), (0.5, 1.0, 2.0)))
    given = examples(vectors)
    loss, _, grad = value_and_grad(objective, {}, given)
    wanted, wanted_grad = 0.0, np.zeros_like(vectors)
    for width, weight in ((2, 0.5), (8, 1.0), (4, 2.0)):
        part, _, part_grad = value_and_grad(contrast, {}, examples(vectors[..., :width]))
        wanted += weight * part
        wanted_grad[..., :width] += weight * part_grad
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)
    assert_gradient(grad, wanted_grad.astype(np.float64))
    assert_sharded_is_whole(objective, {}, given)
    metrics = objective.loss({}, given)[1]
    whole = contrast.loss({}, given)[1]
    assert metrics["alignment"] == whole["alignment"]
    np.testing.assert_allclose(metrics["loss_8"], whole["loss"], rtol=1e-6)


@pytest.mark.parametrize(
    ("dimensions", "weights"),
    [((), ()), ((4, 4), ()), ((0, 4), ()), ((4, 2), (1.0,)), ((4, 2), (1.0, 0.0))],
)
def test_what_are_no_widths_is_refused(dimensions, weights):
    with pytest.raises(UsageError, match=r"objective.matryoshka\.(dimensions|weights)"):
        MatryoshkaConfig(dimensions, weights)
