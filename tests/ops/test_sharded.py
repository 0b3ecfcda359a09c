import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P

from simjax.mesh import MeshConfig, batch_sharding, make_mesh
from simjax.ops import pair_lse, row_loss
from simjax.ops.sharded import choose_exchange, ring_scatter
from tests.ops.cases import Case, make

pytestmark = pytest.mark.usefixtures("strict_promotion")
CASE = Case("square", 64, 64, duplicates=True)


def on_mesh(data, fsdp, scale=20.0, columns=True, exchange="all_gather"):
    mesh = make_mesh(MeshConfig(data, fsdp), jax.devices()[: data * fsdp])
    x, y, anchor_ids, key_ids = jax.device_put(make(CASE).arrays, batch_sharding(mesh))
    part = P(("data", "fsdp"))
    weight = jax.device_put(jnp.cos(jnp.arange(64, dtype=jnp.float32)), batch_sharding(mesh))

    def local(x, y, anchor_ids, key_ids, weight, scale):
        scale = jax.lax.pcast(scale, ("data", "fsdp"), to="varying")

        def loss(x, y, scale):
            options = {"max_scale": 100.0 if scale_is_large else 20.0, "columns": columns}
            options["exchange"] = exchange
            stats = pair_lse(x, y, anchor_ids, key_ids, scale, **options)
            value = (weight * stats.row).sum()
            value += (weight * stats.col).sum() if columns else 0.0
            return value, stats

        (value, stats), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(x, y, scale)
        sums = jax.lax.psum((value, grads[2], stats.potential), ("data", "fsdp"))
        return sums, stats.row, stats.col, grads[:2]

    scale_is_large = scale > 40
    run = jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(part, part, part, part, part, P()),
            out_specs=(P(), part, part, part),
        )
    )
    args = (x, y, anchor_ids, key_ids, weight, jnp.float32(scale))
    return jax.tree.map(np.asarray, run(*args)), run.lower(*args).compile().as_text()


@pytest.mark.parametrize("exchange", ["all_gather", "ring"])
@pytest.mark.parametrize("scale", [20.0, 60.0])
@pytest.mark.parametrize("shape", [(2, 1), (8, 1), (1, 4), (2, 4)])
def test_the_gradient_does_not_depend_on_the_device_count(shape, scale, exchange):
    alone, _ = on_mesh(1, 1, scale)
    spread, _ = on_mesh(*shape, scale, exchange=exchange)
    for ours, expected in zip(jax.tree.leaves(spread), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("exchange", ["all_gather", "ring"])
def test_rows_alone(exchange):
    alone, _ = on_mesh(1, 1, columns=False)
    spread, _ = on_mesh(4, 2, columns=False, exchange=exchange)
    for ours, expected in zip(jax.tree.leaves(spread), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("exchange", ["all_gather", "ring"])
def test_a_row_loss_is_the_same_on_any_mesh(exchange):
    def total(mesh, exchange):
        arrays = jax.device_put(make(CASE).arrays, batch_sharding(mesh))
        part = P(("data", "fsdp"))

        def local(x, y, anchor_ids, key_ids):
            def loss(x, y):
                options = {"max_scale": 20.0, "exchange": exchange}
                pairs = (x, y, anchor_ids, key_ids)
                return row_loss(lambda lse, _: jax.nn.softplus(lse), (), *pairs, 20.0, **options)

            (value, stats), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, y)
            return jax.lax.psum(value, ("data", "fsdp")), stats.row, grads

        out = (P(), part, part)
        run = jax.shard_map(local, mesh=mesh, in_specs=(part,) * 4, out_specs=out)
        return jax.tree.map(np.asarray, jax.jit(run)(*arrays))

    alone = total(make_mesh(MeshConfig(1, 1), jax.devices()[:1]), "all_gather")
    spread = total(make_mesh(MeshConfig(4, 2)), exchange)
    for ours, expected in zip(jax.tree.leaves(spread), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=2e-6 * np.abs(expected).max())


def sent(text):
    """Elements of every array that each kind of collective carries in a compiled program."""
    found = {}
    kinds = "all-gather|reduce-scatter|all-reduce|collective-permute"
    for shapes, name in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", text):
        elements = [
            int(np.prod([int(n) for n in shape.split(",") if n]))
            for shape in re.findall(r"\[([\d,]*)\]", shapes)
        ]
        found.setdefault(name, []).extend(elements)
    return found


WIDTH = 24


def test_devices_send_keys_and_key_gradients_and_nothing_that_grows_with_the_pairs():
    found = sent(on_mesh(8, 1)[1])
    assert max(found["all-gather"]) == 64 * WIDTH
    assert max(found["reduce-scatter"]) == 64 // 8 * WIDTH
    assert max(found["all-reduce"]) <= 64  # the maxima of the columns
    assert "collective-permute" not in found


def test_on_a_ring_devices_pass_on_their_keys_and_gather_nothing():
    found = sent(on_mesh(8, 1, exchange="ring")[1])
    assert found.keys() <= {"collective-permute", "all-reduce"}
    assert max(found["all-reduce"]) == 1  # the sums that the test itself takes
    # In the loop of turns, forward: keys. Backward: keys, gradients, and gradients coming home.
    large = [elements for elements in found["collective-permute"] if elements >= 64]
    assert large == [64 // 8 * WIDTH] * 4


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (4, 2), (1, 8)])
def test_partial_sums_that_go_round_are_a_reduce_scatter(shape):
    """It is what TPUs do; devices hold different numbers, and each keeps its own rows' sum."""
    mesh = make_mesh(MeshConfig(*shape), jax.devices()[: math.prod(shape)])
    x = np.random.default_rng(0).normal(size=(mesh.size, 16, 3)).astype(np.float32)
    part = P(("data", "fsdp"))
    run = jax.shard_map(lambda x: ring_scatter(x[0]), mesh=mesh, in_specs=part, out_specs=part)
    np.testing.assert_allclose(jax.jit(run)(x), x.sum(axis=0), rtol=1e-5, atol=1e-6)


def test_the_exchange_follows_the_size_of_all_keys():
    assert choose_exchange(2**17, 1024, jnp.float32) == "all_gather"
    assert choose_exchange(2**17 + 1, 1024, jnp.float32) == "ring"
    assert choose_exchange(2**17, 1280, jnp.bfloat16) == "all_gather"
    assert choose_exchange(2**20, 768, jnp.bfloat16) == "ring"
