"""SigLIP's loss beside a matrix in float64, with false negatives and hard negatives."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import torch

from simjax.objectives.config import SigmoidConfig
from simjax.objectives.sigmoid import Sigmoid
from simjax.objectives.uniformity import Views
from simjax.types import NO_TEXT
from tests.objectives.drawn import (
    assert_gradient,
    assert_sharded_is_whole,
    examples,
    value_and_grad,
)

pytestmark = pytest.mark.usefixtures("strict_promotion")
VIEWS = Views(positives=1, one_distribution=False, group=4)


def dense(vectors, ids, scale, bias, rule):
    """-mean_i sum_j log sigmoid(z_ij (t x_i . y_j + b)) with z = 1 on the diagonal."""
    x = torch.nn.functional.normalize(vectors, dim=-1, eps=1e-30)
    n, views = ids.shape
    terms = []
    for i in range(n):
        for j in range(n):
            for view in range(1, views):
                if ids[j, view] == NO_TEXT:
                    continue
                score = scale * x[i, 0] @ x[j, view] + bias
                if i == j and view == 1:
                    terms.append(torch.nn.functional.logsigmoid(score))
                    continue
                same = ids[j, view] in (ids[i, 0], ids[i, 1])
                same |= view == 1 and ids[j, 0] == ids[i, 0]
                if rule == "none" or not same:
                    terms.append(torch.nn.functional.logsigmoid(-score))
    return -torch.stack(terms).sum() / n


def drawn():
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(16, 3, 8)).astype(np.float32)
    ids = np.arange(48, dtype=np.int32).reshape(16, 3)
    ids[3, 0] = ids[7, 0]  # one anchor twice
    ids[5, 1] = ids[9, 1]  # one positive twice
    ids[2, 2] = ids[2, 1]  # an own hard negative that is the positive
    ids[8, 2] = NO_TEXT
    vectors[8, 2] = 0
    return vectors, ids


@pytest.mark.parametrize("rule", ["none", "text"])
def test_it_is_the_published_sum(rule):
    """With its gradient for every vector, the scale and the bias."""
    vectors, ids = drawn()
    objective = Sigmoid(SigmoidConfig(false_negatives=rule, bias=-2.0), VIEWS)
    params = objective.init(8, jax.random.key(0))
    given = examples(vectors, ids=ids)
    loss, slopes, grad = value_and_grad(objective, params, given)
    theirs, log_scale, bias = (
        torch.tensor(x, dtype=torch.float64, requires_grad=True)
        for x in (vectors, np.log(10.0), -2.0)
    )
    wanted = dense(theirs, ids, log_scale.exp(), bias, rule)
    wanted.backward()
    np.testing.assert_allclose(loss, wanted.item(), rtol=1e-5)
    assert_gradient(slopes["score_bias"], bias.grad.numpy())
    assert_gradient(slopes["log_scale"], log_scale.grad.numpy())
    assert_gradient(grad, theirs.grad.numpy())
    assert_sharded_is_whole(objective, params, given)


def test_what_is_logged_is_the_definition():
    vectors, ids = drawn()
    objective = Sigmoid(SigmoidConfig(), VIEWS)
    params = objective.init(8, jax.random.key(0))
    given = examples(vectors, ids=ids)
    _, metrics = jax.jit(objective.loss)(params, given)
    x = vectors.astype(np.float64)
    x /= np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-30)
    first, keys = x[:, 0], x[:, 1]
    right = there = 0
    across, within = [], []
    for i in range(16):
        cosines = [
            first[i] @ x[j, view]
            for j in range(16)
            for view in (1, 2)
            if ids[j, view] not in (NO_TEXT, ids[i, 0], ids[i, 1])
            and not (view == 1 and ids[j, 0] == ids[i, 0])
        ]
        there += 1
        right += first[i] @ keys[i] > max(cosines)
        across += [
            np.exp(-2 * ((first[i] - keys[j]) ** 2).sum())
            for j in range(16)
            if i != j and ids[i, 0] != ids[j, 1]
        ]
        within += [
            np.exp(-2 * ((first[i] - first[j]) ** 2).sum())
            for j in range(i // 4 * 4, i // 4 * 4 + 4)
            if ids[i, 0] != ids[j, 0]
        ]
    np.testing.assert_allclose(metrics["accuracy"], right / there, rtol=1e-6)
    np.testing.assert_allclose(metrics["alignment"], ((first - keys) ** 2).sum() / 16, rtol=1e-5)
    np.testing.assert_allclose(metrics["uniformity"], np.log(np.mean(within)), rtol=1e-5)
    np.testing.assert_allclose(metrics["uniformity_cross"], np.log(np.mean(across)), rtol=1e-4)


def test_it_takes_three_products():
    objective = Sigmoid(SigmoidConfig(), Views(positives=1, one_distribution=True, group=1))
    params = objective.init(8, jax.random.key(0))
    given = examples(np.ones((64, 2, 8), np.float32))

    def loss(x):
        return objective.loss(params, replace(given, vectors=x))

    text = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(given.vectors).as_text()
    assert text.count("stablehlo.dot_general") == 3


def test_a_learned_scale_is_held_and_fixed_ones_are_no_parameters():
    objective = Sigmoid(SigmoidConfig(max_scale=20.0), VIEWS)
    params = objective.init(8, jax.random.key(0))
    held = objective.constrain(params | {"log_scale": params["log_scale"] + 9})
    np.testing.assert_allclose(objective.figures(held)["scale"], 20.0, rtol=1e-6)
    assert held["score_bias"] == -10
    fixed = Sigmoid(SigmoidConfig(learnable=False), VIEWS)
    assert fixed.init(8, jax.random.key(0)) == {} and fixed.figures({})["bias"] == -10
