"""Averages of parameters: what they are, that they survive, and that they are what is exported."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax import contrib

from simjax import mesh as meshes
from simjax.checkpoint.manager import Checkpoints
from simjax.mesh import MeshConfig
from simjax.sentence_encoder import SentenceEncoder
from simjax.train import average, loop, optimizer
from simjax.train.config import TrainConfig
from simjax.train.optimizer_config import ScheduleFreeAdamW
from simjax.train.setup import set_up
from simjax.train.state import TrainState, init_state, state_specs
from simjax.train.step import StepOptions, make_step
from tests.train.test_loop import StopAfter
from tests.train.tiny_run import (
    BLOCK,
    EPOCHS,
    WORDS,
    assert_same_bits,
    figures,
    recipe,
    state_at,
    train,
)
from tests.train.towers import batch_of

EMA = TrainConfig(epochs=EPOCHS, micro_batch=BLOCK, log_every=1, ema=0.8)


def test_a_moving_average_follows_its_formula():
    rng = np.random.default_rng(0)
    start, decay = rng.normal(size=3), 0.6
    wanted, mean = start.copy(), {"x": jnp.asarray(start, jnp.float32)}
    for n in range(12):  # from n = 5 on the decay is 0.6
        params = rng.normal(size=3)
        d = min(decay, (1 + n) / (10 + n))
        wanted = d * wanted + (1 - d) * params
        new = {"x": jnp.asarray(params, jnp.float32)}
        mean = average.moving_average(mean, new, decay, jnp.int32(n))
        np.testing.assert_allclose(mean["x"], wanted, rtol=1e-5, atol=1e-6)


class Squares:
    """Embeddings that are the parameters, and the sum of their squares."""

    separable = alongside = None

    def encode_blocks(self, params, batch, key, gather_layer=None):
        ones = jnp.ones((*batch.place.shape, 1, 1, 1))
        return ones * params["model"]["kernel"]

    def loss(self, params, embeddings, batch):
        part = (embeddings**2).sum()
        return part, {"loss": meshes.global_sum(part)}

    def figures(self, params):
        return {}

    def layers(self, params):
        return {}

    def constrain(self, params):
        return params


def test_the_step_moves_the_average_but_not_by_a_gradient_that_is_not_finite():
    params = {"model": {"kernel": jnp.arange(1.0, 9.0)}, "objective": {}}
    mesh = meshes.make_mesh(MeshConfig(1, 2), jax.devices()[:2])
    tx, schedule = optimizer.make(ScheduleFreeAdamW(learning_rate=0.1, warmup=0), 10, 32)
    specs = state_specs(params, tx, mesh, average=True)
    options = StepOptions(None, "step", 1.0, 0, ema=0.9)
    step = make_step(Squares(), tx, schedule, specs, mesh, options)
    batch = jax.device_put(batch_of(2), meshes.batch_sharding(mesh))
    state = init_state(params, tx, mesh, average=True)
    before = jax.tree.map(np.asarray, state)
    state, _ = step(state, batch)
    for old, new, mean in zip(
        *map(jax.tree.leaves, (before.average, state.params, state.average)), strict=True
    ):
        np.testing.assert_allclose(mean, 0.1 * old + 0.9 * new, rtol=1e-5, atol=1e-6)
    state.params["model"]["kernel"] *= jnp.nan
    kept = jax.tree.map(np.asarray, state.average)
    state, metrics = step(state, batch)
    assert np.isnan(float(metrics["grad_norm"])) and int(state.step) == 2
    jax.tree.map(np.testing.assert_array_equal, kept, jax.tree.map(np.asarray, state.average))


@pytest.mark.parametrize("which", ["newest", "ema", "schedule_free"])
def test_what_is_evaluated_is_read_from_a_checkpoint_as_from_the_state(tmp_path, which):
    model = {"a": jnp.arange(3.0), "b": jnp.ones((2, 2))}
    tx, _ = optimizer.make(ScheduleFreeAdamW(learning_rate=0.3, warmup=0), 10, 32)
    params = {"model": model, "objective": {"log_scale": jnp.float32(1)}}
    opt_state = tx.init(params)
    for n in range(3):
        grads = jax.tree.map(lambda x, n=n: jnp.cos(x + n), params)
        params, opt_state, _ = optimizer.apply(tx, grads, opt_state, params, None)
    mean = jax.tree.map(lambda x: x + 5, params)
    state = TrainState(params, opt_state, jnp.int32(3), mean)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state, {})
        checkpoints.wait()
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), model)
        found, _ = checkpoints.restore(3, average.wanted(shapes, which), partial=True)
    wanted = {
        "newest": params["model"],
        "ema": mean["model"],
        "schedule_free": contrib.schedule_free_eval_params(opt_state, params)["model"],
    }
    for got in (average.evaluated(found, which), average.evaluated(state, which)):
        jax.tree.map(np.testing.assert_array_equal, got, wanted[which])


@pytest.mark.slow
def test_an_average_is_resumed_bit_for_bit_and_exported(data, tmp_path):
    whole = recipe(data, tmp_path / "whole", train=EMA)
    returned = train(whole)
    stopped = dataclasses.replace(whole, output=str(tmp_path / "stopped"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "StopRequest", StopAfter)
        train(stopped)
    assert train(stopped) == returned
    assert_same_bits(state_at(stopped), state_at(whole))
    assert figures(Path(stopped.output)) == figures(Path(whole.output))
    state = state_at(whole, returned["best_step"])
    exported = SentenceEncoder.from_pretrained(str(Path(whole.output) / "export")).encode(WORDS)
    encoder = set_up(whole).encoder
    mean, newest = (
        encoder.replace(x["model"]).encode(WORDS) for x in (state.average, state.params)
    )
    np.testing.assert_allclose(exported, mean, atol=1e-5)
    assert np.abs(exported - newest).max() > 1e-3


@pytest.mark.slow
def test_the_average_of_schedule_free_is_exported(data, tmp_path):
    config = recipe(
        data, tmp_path / "run", optimizer=ScheduleFreeAdamW(learning_rate=0.02, eps=1e-5, warmup=2)
    )
    returned = train(config)
    state = state_at(config, returned["best_step"])
    exported = SentenceEncoder.from_pretrained(str(tmp_path / "run" / "export")).encode(WORDS)
    encoder = set_up(config).encoder
    mean = contrib.schedule_free_eval_params(state.opt_state, state.params)["model"]
    np.testing.assert_allclose(exported, encoder.replace(mean).encode(WORDS), atol=1e-5)
    newest = encoder.replace(state.params["model"]).encode(WORDS)
    assert np.abs(exported - newest).max() > 1e-3
