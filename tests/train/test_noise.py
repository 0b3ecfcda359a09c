"""The gradient noise against contributions computed one by one, and against many batches."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from simjax.errors import UsageError
from simjax.mesh import MeshConfig
from simjax.objectives.config import ContrastiveConfig, MaskedLmConfig
from simjax.train import config as run_config
from simjax.train import noise
from simjax.train.setup import set_up
from tests.train.tiny_run import BATCH, config_for, figures, train
from tests.train.towers import EXAMPLES, Layout, Tower, batch_of

BLOCKS = 16
TOWER = Tower(ContrastiveConfig(directions="symmetric"))
ONE_BY_ONE = Layout(1, 1, 1, noise=True)


def measured(layout):
    return TOWER.compiled(layout, BLOCKS).result


def squared(tree):
    return sum(float(np.vdot(x, x)) for x in map(np.asarray, jax.tree.leaves(tree)))


@pytest.mark.slow
def test_it_is_the_sum_of_each_micro_batchs_own_gradient():
    params, batch, key = TOWER.compiled(ONE_BY_ONE, BLOCKS).arguments
    system = TOWER.system
    encode = partial(system.encode_blocks, key=key)
    embeddings = jax.jit(encode)(params, batch)
    to_embeddings = jax.jit(jax.grad(lambda x: system.loss(params, x, batch)[0]))(embeddings)

    @jax.jit
    def own(part, cotangent):
        return jax.vjp(lambda params: encode(params, part), params)[1](cotangent)[0]

    parts = [jax.tree.map(lambda x, i=i: x[i : i + 1], batch) for i in range(BLOCKS)]
    grads = [own(part, to_embeddings[i : i + 1]) for i, part in enumerate(parts)]
    metrics, whole = measured(ONE_BY_ONE)
    np.testing.assert_allclose(metrics["contributions"], sum(map(squared, grads)), rtol=1e-5)
    total = jax.tree.map(lambda *g: sum(g), *grads)
    np.testing.assert_allclose(squared(whole), squared(total), rtol=1e-5)
    plain, unmeasured = measured(dataclasses.replace(ONE_BY_ONE, noise=False))
    assert metrics["loss"] == plain["loss"] and "contributions" not in plain
    for found, wanted in zip(jax.tree.leaves(whole), jax.tree.leaves(unmeasured), strict=True):
        np.testing.assert_allclose(found, wanted, atol=5e-6 * np.abs(wanted).max())


@pytest.mark.parametrize(
    "layout",
    [
        Layout(4, 2, 1, noise=True),
        pytest.param(Layout(8, 1, 1, noise=True), marks=pytest.mark.slow),
        pytest.param(Layout(2, 2, 1, tensor=2, noise=True), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_same_micro_batches_on_other_devices_give_the_same(layout):
    found, expected = measured(layout)[0], measured(ONE_BY_ONE)[0]
    np.testing.assert_allclose(found["contributions"], expected["contributions"], rtol=1e-5)


def test_independent_parts_are_estimated_without_bias():
    random, count, width = np.random.default_rng(0), 6, 5
    mean, spread = random.normal(size=width), random.uniform(0.5, 2, width)
    found = []
    for _ in range(20_000):
        parts = mean / count + spread * random.normal(size=(count, width))
        squares, norm = (parts**2).sum(), np.linalg.norm(parts.sum(axis=0))
        found.append([*noise.estimate(squares, norm, count).values()])
    wanted = count * (spread**2).sum(), (mean**2).sum()
    error = np.std(found, axis=0) / np.sqrt(len(found))
    assert (abs(np.mean(found, axis=0) - wanted) < 4 * error).all()


@pytest.mark.slow
@pytest.mark.parametrize("group", [EXAMPLES, None], ids=["within micro-batches", "everywhere"])
def test_beside_the_covariance_of_many_batches(group, capsys):
    """Unbiased where negatives do not cross micro-batches; the bias elsewhere is told."""
    tower = Tower(ContrastiveConfig(negative_group=group), dropout=0.0)
    run = tower.gradient(ONE_BY_ONE)[0]
    grads, estimates = [], []
    for seed in range(400):
        metrics, gradient = run(tower.params, batch_of(BLOCKS, seed), jax.random.key(0))
        flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(gradient)]).astype(np.float64)
        grads.append(flat)
        found = noise.estimate(metrics["contributions"], np.linalg.norm(flat), BLOCKS)
        estimates.append(float(found["gradient_noise"]))
    true = np.var(np.stack(grads), axis=0, ddof=1).sum()
    ratio = np.mean(estimates) / true
    with capsys.disabled():
        print(f"\nestimated over true gradient noise, negatives {group or 'of all'}: {ratio:.3f}")
    assert abs(ratio - 1) < 0.1 if group else 1.5 < ratio < 3


def test_a_run_logs_it(data, tmp_path):
    config = config_for(data, tmp_path / "run")
    shorter = dataclasses.replace(config.train, noise_scale=True, steps=3)
    train(dataclasses.replace(config, train=shorter))
    steps = [line for line in figures(tmp_path / "run") if "loss" in line]
    assert len(steps) == 3
    for step in steps:
        total = step["gradient_noise"] + step["gradient_signal"]
        np.testing.assert_allclose(total, step["grad_norm"] ** 2, rtol=1e-4)
        assert step["gradient_noise"] > 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mesh": MeshConfig(fsdp=2, gather="layer")}, "mesh.gather layer"),
        ({"objective": ContrastiveConfig(mlm=MaskedLmConfig())}, "objective.mlm"),
        ({"objective": ContrastiveConfig(learnable_temperature=True)}, "learnable_temperature"),
    ],
)
def test_what_it_does_not_go_with(data, tmp_path, changes, says):
    config = config_for(data, tmp_path, **changes)
    noisy = dataclasses.replace(config.train, noise_scale=True)
    with pytest.raises(UsageError, match=f"train.noise_scale does not go with .*{says}"):
        run_config.validate(dataclasses.replace(config, train=noisy))


def test_one_part_has_nothing_to_be_compared_with(data, tmp_path):
    config = config_for(data, tmp_path / "run")
    whole = dataclasses.replace(config.train, noise_scale=True, micro_batch=BATCH)
    config = dataclasses.replace(config, train=whole, mesh=MeshConfig())
    with pytest.raises(UsageError, match="compares the parts of a batch, and there is one"):
        set_up(config, devices=jax.devices()[:1])
