import math
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P

from simjax.mesh import MeshConfig, batch_sharding, make_mesh
from simjax.ops import Reduction, reduce_pairs, row_loss, sharded
from simjax.ops.sharded import choose_exchange, ring_scatter
from tests.ops.cases import PLANS, Case, make

pytestmark = pytest.mark.usefixtures("strict_promotion")
CASE = Case("square", 64, 64, duplicates=True)


AXES = ("slice", "data", "fsdp")
"""The operator asks an array what it is split over; which axes there are is not its business."""


def mesh_of(shape):
    shape = (1,) * (3 - len(shape)) + shape
    devices = np.asarray(jax.devices()[: math.prod(shape)]).reshape(shape)
    return jax.sharding.Mesh(devices, AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3)


def weights(n):
    return jnp.cos(jnp.arange(n, dtype=jnp.float32))


def on_mesh(shape, plan="rows and columns", scale=20.0, exchange="all_gather", dtype=jnp.float32):
    """Value, statistics and gradients of a weighted sum of all rows and columns."""
    mesh, part = mesh_of(shape), P(AXES)
    case = replace(CASE, scale=scale)
    pairs = make(case)
    kinds = jax.tree.map(jnp.float32, PLANS[plan](case))
    # A bias of keys is split with them; scales and other biases are the same everywhere.
    specs = jax.tree.map(lambda x: part if x.ndim else P(), kinds)
    sides = (*pairs.arrays, pairs.guide, weights(64))

    def local(x, y, anchor_ids, key_ids, guide, weight, kinds):
        kinds = jax.tree.map(lambda x: x if x.ndim else jax.lax.pcast(x, AXES, to="varying"), kinds)

        def loss(x, y, kinds):
            sides = (x, y, anchor_ids, key_ids)
            stats = reduce_pairs(*sides, kinds, guide=guide, exchange=exchange, dtype=dtype)
            found = jax.tree.leaves((stats.rows, stats.cols))
            value = sum((weight * jnp.where(jnp.isfinite(v), v, 0.0)).sum() for v in found)
            return value, stats

        (value, stats), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(x, y, kinds)
        d_kinds = jax.tree.map(
            lambda x, like: x if len(like) else jax.lax.psum(x, AXES), grads[2], specs
        )
        return jax.lax.psum(value, AXES), stats, grads[:2], d_kinds

    run = jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(*(part,) * 6, specs),
            out_specs=(P(), part, part, specs),
        )
    )
    return jax.tree.map(np.asarray, run(*sides, kinds)), run.lower(*sides, kinds)


def assert_same(ours, expected):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6 * max(1, np.abs(other).max()))


MESHES = [(2,), (4,), (8,), (4, 2), (2, 2, 2)]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("exchange", ["all_gather", "ring"])
@pytest.mark.parametrize("scale", [20.0, 60.0])
@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_the_gradient_does_not_depend_on_the_device_count(shape, scale, exchange):
    alone, _ = on_mesh((1,), "rows and columns", scale)
    assert_same(on_mesh(shape, "rows and columns", scale, exchange)[0], alone)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("exchange", ["all_gather", "ring"])
@pytest.mark.parametrize("plan", [plan for plan in PLANS if plan != "rows and columns"])
def test_every_reduction_is_the_same_on_any_mesh(plan, exchange):
    alone, _ = on_mesh((1,), plan)
    assert_same(on_mesh((2, 2, 2), plan, exchange=exchange)[0], alone)


@pytest.mark.parametrize("exchange", ["all_gather", "ring"])
def test_a_row_loss_is_the_same_on_any_mesh(exchange):
    def total(mesh, exchange):
        arrays = jax.device_put(make(CASE).arrays, batch_sharding(mesh))
        part = P(("data", "fsdp"))

        def local(x, y, anchor_ids, key_ids):
            def loss(x, y):
                kinds = [Reduction(20.0, max_scale=20.0)]
                pairs = (x, y, anchor_ids, key_ids)

                def value(reduced, _):
                    return jax.nn.softplus(reduced[0])

                return row_loss(value, (), *pairs, kinds, exchange=exchange)

            (value, stats), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, y)
            return jax.lax.psum(value, ("data", "fsdp")), stats.rows, grads

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
    found = sent(on_mesh((8,))[1].compile().as_text())
    assert max(found["all-gather"]) == 64 * WIDTH
    assert max(found["reduce-scatter"]) == 64 // 8 * WIDTH
    assert max(found["all-reduce"]) <= 64  # the maxima of the columns
    assert "collective-permute" not in found


def test_on_a_ring_devices_pass_on_their_keys_and_gather_nothing():
    found = sent(on_mesh((8,), exchange="ring")[1].compile().as_text())
    assert found.keys() <= {"collective-permute", "all-reduce"}
    assert max(found["all-reduce"]) == 1  # the sums that the test itself takes
    # In the loop of turns, forward: keys. Backward: keys, gradients, and gradients coming home.
    large = [elements for elements in found["collective-permute"] if elements >= 64]
    assert large == [64 // 8 * WIDTH] * 4


def test_keys_are_rounded_before_they_are_sent():
    text = on_mesh((8,), dtype=jnp.bfloat16)[1].as_text()
    gathered = re.findall(r"stablehlo.all_gather.*-> tensor<64x24x(\w+)>", text)
    assert gathered == ["bf16"]


def test_too_many_keys_to_gather_go_round(monkeypatch):
    """All devices' keys count: those of one alone would fit."""
    bytes_of_all = 64 * WIDTH * 8
    for most, kind in ((bytes_of_all, "all_gather"), (bytes_of_all - 1, "collective_permute")):
        monkeypatch.setattr(sharded, "GATHERED_BYTES", most)
        jax.clear_caches()
        text = on_mesh((8,), exchange=None)[1].as_text()
        assert (f"stablehlo.{kind}" in text) and (("all_gather" in text) == (kind == "all_gather"))


def test_vectors_that_are_on_every_device_are_refused():
    """They would be counted once for each."""
    mesh, part = mesh_of((4,)), P(AXES)
    x, y, anchor_ids, key_ids = make(CASE).arrays

    def rows(*sides):
        return reduce_pairs(*sides, [Reduction(20.0)]).rows[0]

    for specs in ((part, P(), part, P()), (P(), part, P(), part), (part, part, part, P())):
        run = jax.shard_map(rows, mesh=mesh, in_specs=specs, out_specs=part)
        with pytest.raises(ValueError, match=r"split over|\.example: whole numbers \[16\] are"):
            jax.eval_shape(run, x, y, anchor_ids, key_ids)


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
    assert choose_exchange(2**17, 896, jnp.float32, guide=256) == "all_gather"
    assert choose_exchange(2**17, 896, jnp.float32, guide=257) == "ring"
