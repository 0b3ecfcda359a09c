"""A tiny training loop, stopped and resumed, ends where the uninterrupted one ends."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import P
from jax.sharding import AxisType, NamedSharding

from simjax.checkpoint.manager import Checkpoints

TX = optax.adamw(1e-2)


def place(devices):
    mesh = jax.make_mesh((len(devices),), ("fsdp",), axis_types=(AxisType.Auto,), devices=devices)

    def where(leaf):
        split = leaf.ndim == 2 and leaf.shape[0] % len(devices) == 0
        return NamedSharding(mesh, P("fsdp") if split else P())

    return where


def init(where):
    params = {"kernel": jax.random.normal(jax.random.key(0), (16, 8)), "bias": jnp.zeros(8)}
    state = {
        "params": params,
        "opt": TX.init(params),
        "step": jnp.int32(0),
        "key": jax.random.key(7),
    }
    return jax.tree.map(lambda leaf: jax.device_put(leaf, where(leaf)), state)


@jax.jit
def update(state):
    key = jax.random.fold_in(state["key"], state["step"])
    x = jax.random.normal(key, (32, 16))

    def loss(params):
        y = jnp.tanh(x @ params["kernel"] + params["bias"])
        return jnp.mean((y - x[:, :8]) ** 2)

    updates, opt = TX.update(jax.grad(loss)(state["params"]), state["opt"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    return state | {"params": params, "opt": opt, "step": state["step"] + 1}


def run(state, until, checkpoints=None):
    while int(state["step"]) < until:
        state = update(state)
        if checkpoints is not None:
            checkpoints.save(int(state["step"]), state, {"next_index": int(state["step"])})
    return state


def bits(tree):
    tree = dict(tree, key=jax.random.key_data(tree["key"]))
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Saved at step 3 on eight devices, and the state at step 6 of the run that went on."""
    folder = tmp_path_factory.mktemp("run")
    with Checkpoints(folder) as checkpoints:
        third = run(init(place(jax.devices())), 3, checkpoints)
    return folder, third, run(third, 6)


@pytest.mark.parametrize("count", [8, 4, 1])
def test_resume(interrupted, count):
    folder, third, sixth = interrupted
    where = place(jax.devices()[:count])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where(leaf)), third
    )
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest() == 3
        state, data_state = checkpoints.restore(3, target)
    assert data_state == {"next_index": 3}
    assert bits(state) == bits(third)  # the stored values, on whatever mesh
    kernel = state["params"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (16 // count, 8)
    end = run(state, 6)
    if count == 8:
        assert bits(end) == bits(sixth)
    else:
        np.testing.assert_allclose(
            end["params"]["kernel"], sixth["params"]["kernel"], rtol=1e-5, atol=1e-6
        )
