"""The kernels for Hopper GPUs: their numbers in Pallas' interpreter, and that they lower.

The interpreter holds up a thread of the CPU client for each warpgroup that waits, and needs the
eight that eight devices give. It compiles a kernel anew for each warpgroup of each thread block,
so that kernels are small here and thread blocks few.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.mesh import vary
from simjax.ops import hopper, pallas_gpu, reference
from simjax.ops.pairs import Ids
from simjax.ops.reductions import PairStats, Reduction
from simjax.ops.tiles import Cols, Factors, Rows, Tiling, finish
from tests.ops.cases import PLANS, Case, make

pytestmark = pytest.mark.usefixtures("strict_promotion")


@pytest.fixture
def small(monkeypatch):
    """One thread block for all keys, and half as many parts of a tile."""
    monkeypatch.setattr(hopper, "BLOCKS_WANTED", 1)
    monkeypatch.setattr(hopper, "PART", 64)


def operands(case, plan, dtype=jnp.bfloat16):
    """Both sides, scales, and the static choices."""
    pairs, kinds = make(case), PLANS[plan](case)
    x, y, anchor_ids, key_ids = pairs.arrays
    biases = tuple(
        None if kind.bias is None else jnp.broadcast_to(jnp.float32(kind.bias), case.keys)
        for kind in kinds
    )
    scales = jnp.stack([jnp.float32(kind.scale) for kind in kinds])
    tiling = Tiling(tuple(kind.static for kind in kinds), False)
    rows, cols = (
        Rows(x.astype(dtype), Ids.of(anchor_ids), None),
        Cols(y.astype(dtype), Ids.of(key_ids), None, biases),
    )
    return rows, cols, scales, tiling


def cotangents(stats):
    """Of mixed signs, and none of what is not differentiable or empty."""

    def one(phase, x):
        if x is None:
            return None
        return jnp.where(jnp.isfinite(x), jnp.cos(phase + jnp.arange(len(x), dtype=x.dtype)), 0.0)

    rows = tuple(one(float(k), x) for k, x in enumerate(stats.rows))
    cols = tuple(one(float(k) + 0.5, x) for k, x in enumerate(stats.cols))
    return PairStats(rows, cols, stats.counts, stats.row_max)


def assert_kernels_give_the_reference(case, plan, dtype=jnp.bfloat16):
    rows, cols, scales, tiling = operands(case, plan, dtype)
    assert pallas_gpu.supports(rows, cols, tiling)

    @jax.jit
    def forward(*args):
        return finish(*pallas_gpu.reduce(*args, tiling, interpret=True), tiling)

    @jax.jit
    def backward(*args):
        return pallas_gpu.pull_back(*args, tiling, interpret=True)

    stats = forward(rows, cols, scales)
    expected = reference.forward(rows, cols, scales, tiling)
    for one, other in zip(jax.tree.leaves(stats), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=2e-6 * case.scale)

    given = cotangents(expected)
    factors = Factors.of(expected, given, scales, tiling)
    grads = backward(rows, cols, factors, scales)
    exact = reference.backward(rows, cols, scales, expected, given, tiling)
    # Weights are rounded to the operands' type before they are multiplied.
    rounding = float(jnp.finfo(dtype).eps)
    terms = float(jnp.linalg.norm(exact.x, axis=1).sum()) / case.scale
    for one, other in zip(jax.tree.leaves(grads[:2]), jax.tree.leaves(exact[:2]), strict=True):
        assert one.dtype == jnp.float32
        assert np.linalg.norm(one - other) <= rounding * np.linalg.norm(other)
    np.testing.assert_allclose(grads.scales, exact.scales, rtol=rounding, atol=rounding * terms)
    for kind, one in zip(tiling.reductions, grads.biases, strict=True):
        if one is not None and kind.gradient:
            other = exact.biases[tiling.reductions.index(kind)]
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize(
    ("case", "plan"),
    [
        (
            Case(
                "two positives, absent keys", 21, 63, 40, positives=2, duplicates=True, absent=True
            ),
            "several scales",
        ),
        pytest.param(
            Case("two blocks", 260, 300, width=72, scale=100.0, duplicates=True),
            "rows and columns",
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: getattr(value, "name", value),
)
@pytest.mark.usefixtures("small")
def test_kernels_give_the_reference(case, plan):
    assert_kernels_give_the_reference(case, plan)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_strips_of_weights(monkeypatch):
    monkeypatch.setattr(pallas_gpu, "STRIP", (8, 24))
    case = Case("rows without negatives", 12, 24, lonely=True)
    assert_kernels_give_the_reference(case, "sigmoid of keys")


@pytest.mark.slow
def test_stages_and_chunks_follow_one_another(monkeypatch):
    # Two chunks of three tiles (one of them padding) of two stages each, with the parts of tiles
    # that run on GPUs.
    monkeypatch.setattr(hopper, "BLOCKS_WANTED", 2)
    case = Case("several chunks", 140, 600, width=128, duplicates=True)
    shape = hopper.Sweep.of(case.anchors, case.keys, case.width, interpret=True)
    assert (shape.blocks, shape.chunks, shape.span, shape.steps) == (1, 2, 3, 2)
    assert_kernels_give_the_reference(case, "rows")


@pytest.mark.parametrize("cluster", [1, 2])
def test_every_block_meets_every_chunk(cluster):
    shape = hopper.Sweep(37, 6, 1, 1, cluster, interpret=False)
    seen = [hopper.place(jnp.int32(n), shape) for n in range(37 * 6 // cluster)]
    found = {(int(block), int(chunk)) for block, chunk in seen}
    assert found == {(block, chunk) for block in range(37) for chunk in range(6 // cluster)}


def test_softplus_has_no_cancellation():
    kind = Reduction(1.0, kind="softplus")
    scores = jnp.linspace(-80.0, 80.0, 4001, dtype=jnp.float32)
    taken = pallas_gpu._terms(scores, jnp.float32(1.0), None, kind)
    np.testing.assert_allclose(taken, np.logaddexp(0.0, np.asarray(scores, np.float64)), rtol=1e-6)


def shapes(num_anchors, num_keys, width, dtype=jnp.bfloat16, others=1):
    """Both sides, as shapes alone."""

    def ints(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    def side(n):
        return Ids(ints(n), ints(n), (ints(n),) * others, ints(n))

    rows = Rows(jax.ShapeDtypeStruct((num_anchors, width), dtype), side(num_anchors), None)
    keys = jax.ShapeDtypeStruct((num_keys, width), dtype)
    return rows, Cols(keys, side(num_keys), None, (None,))


PLAIN = Tiling((Reduction(20.0, max_scale=20.0, columns=True).static,), False)
SCALES = jax.ShapeDtypeStruct((1,), jnp.float32)


def value_and_grad(rows, cols, scales):
    stats = finish(*pallas_gpu.reduce(rows, cols, scales, PLAIN), PLAIN)
    factors = Factors.of(stats, stats, scales, PLAIN)
    return stats.rows, pallas_gpu.pull_back(rows, cols, factors, scales, PLAIN)[:2]


def test_they_lower_to_kernels_and_hold_no_array_of_all_pairs():
    n = 32768
    rows, cols = shapes(n, n, 768)
    exported = jax.export.export(jax.jit(value_and_grad), platforms=["cuda"])(rows, cols, SCALES)
    text = exported.mlir_module()
    assert text.count("stablehlo.custom_call @mosaic_gpu") == 2
    assert text.count("stablehlo.dot_general") == 2
    assert f"{n}x{n}x" not in text


@pytest.mark.parametrize("cluster", [1, 2])
def test_they_lower_inside_a_shard_map(cluster, monkeypatch):
    monkeypatch.setattr(hopper, "CLUSTER", cluster)
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spec = jax.P(("data", "fsdp"))

    def local(rows, cols, scales):
        return value_and_grad(rows, cols, vary(scales))

    mapped = jax.shard_map(local, mesh=mesh, in_specs=(spec, spec, jax.P()), out_specs=spec)
    rows, cols = shapes(4096, 4096, 384)
    exported = jax.export.export(jax.jit(mapped), platforms=["cuda"])(rows, cols, SCALES)
    assert exported.mlir_module().count("stablehlo.custom_call @mosaic_gpu") == 2


def test_what_kernels_do_not_serve_is_refused():
    rows, cols = shapes(256, 256, 64)
    assert pallas_gpu.supports(rows, cols, PLAIN)
    assert not pallas_gpu.supports(*shapes(256, 256, 64, jnp.float32), PLAIN)
    assert not pallas_gpu.supports(*shapes(0, 256, 64), PLAIN)
    assert not pallas_gpu.supports(*shapes(256, 256, 64, others=5), PLAIN)
    guided = Tiling((Reduction(20.0, guided=True).static,), False)
    assert not pallas_gpu.supports(rows, cols, guided)
    many = Tiling((Reduction(20.0, counted=True).static,) * 3, False)
    assert not pallas_gpu.supports(rows, cols, many)
