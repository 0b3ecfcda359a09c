"""The TPU kernels: numbers in an interpreter, and that programs for TPUs are lowered to them."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from simjax.ops import Reduction, pallas_tpu, reduce_pairs, row_loss
from simjax.ops.pairs import Ids
from simjax.ops.tiles import Cols, Rows, Tiling
from tests.ops.cases import CASES, PLANS, Case, make
from tests.ops.test_reduce_pairs import assert_same, run, total

pytestmark = pytest.mark.usefixtures("strict_promotion")
RAGGED = Case("ragged", 37, 70, duplicates=True)


@pytest.fixture
def interpreter():
    """TPU kernels run by an interpreter that checks what is read before it is written."""
    with pltpu.force_tpu_interpret_mode():
        yield


def check(case, plan, **options):
    expected = run(case, plan, "reference", **options)
    assert_same(run(case, plan, "pallas_tpu", **options), expected, case.scale)


@pytest.mark.parametrize("plan", PLANS)
def test_kernels_give_the_reference(plan, interpreter):
    check(RAGGED, plan)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", [c for c in CASES if c.name != "ragged"], ids=lambda c: c.name)
def test_kernels_give_the_reference_of_every_case(case, interpreter):
    check(case, "several scales")


@pytest.mark.parametrize("tile", [(40, 72), (40, 24), (8, 72), None])
def test_one_tile_and_one_row_or_column_of_them(tile, interpreter):
    """With few columns of tiles, the gradients of keys are fetched soon after they were sent."""
    check(RAGGED, "rows and columns", tile=tile)


def test_bfloat16_operands_are_summed_in_float32(interpreter):
    case = Case("wide", 40, 40, width=128)
    (ours, grads), (expected, exact) = (
        run(case, "rows and columns", name, dtype=jnp.bfloat16)
        for name in ("pallas_tpu", "reference")
    )
    np.testing.assert_allclose(ours.rows[0], expected.rows[0], rtol=1e-6)
    for one, other in zip(grads[:2], exact[:2], strict=True):
        assert one.dtype == jnp.float32
        assert np.linalg.norm(one - other) < 1e-2 * np.linalg.norm(other)


def test_a_row_loss_is_taken_from_the_kernels(interpreter):
    pairs = make(RAGGED)
    x, y, anchor_ids, key_ids = pairs.arrays
    kinds = [Reduction(20.0, max_scale=20.0)]

    def value(reduced, weights):
        return weights * jax.nn.softplus(jnp.where(reduced[0] > -jnp.inf, reduced[0], 0.0))

    def loss(x, y, weights, implementation):
        sides = (x, y, anchor_ids, key_ids, kinds)
        options = {"tile": (16, 24), "implementation": implementation}
        return row_loss(value, weights, *sides, **options)[0]

    weights = 1.5 + jnp.cos(jnp.arange(37.0, dtype=jnp.float32))
    grad = jax.jit(jax.value_and_grad(loss, (0, 1, 2)), static_argnums=3)
    (ours, grads), (expected, exact) = (
        grad(x, y, weights, name) for name in ("pallas_tpu", "reference")
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    for one, other in zip(grads, exact, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


def lowered(platform, *, width=128, dtype=jnp.float32, implementation=None):
    """The program of value and gradient, as it is handed to the platform's compiler."""
    x, y, anchor_ids, key_ids = make(Case("square", 256, 256, width=width)).arrays

    def loss(x, y):
        kinds = [Reduction(20.0, max_scale=20.0, columns=True)]
        options = {"implementation": implementation, "dtype": dtype}
        return total(reduce_pairs(x, y, anchor_ids, key_ids, kinds, **options))

    grad = jax.jit(jax.grad(loss, (0, 1)))
    return jax.export.export(grad, platforms=[platform])(x, y).mlir_module()


def lowered_rows(platform):
    """The same of a loss of rows."""
    x, y, anchor_ids, key_ids = make(Case("square", 256, 256, width=128)).arrays

    def loss(x, y):
        kinds = [Reduction(20.0, max_scale=20.0)]
        sides = (x, y, anchor_ids, key_ids, kinds)
        return row_loss(lambda reduced, _: jax.nn.softplus(reduced[0]), (), *sides)[0]

    grad = jax.jit(jax.grad(loss, (0, 1)))
    return jax.export.export(grad, platforms=[platform])(x, y).mlir_module()


def kernels(text):
    return [name for name in ("simjax_reduce_pairs", "simjax_pull_back_pairs") if name in text]


def test_programs_for_tpus_are_lowered_to_the_kernels_and_others_are_not():
    assert len(kernels(lowered("tpu"))) == 2
    assert not kernels(lowered("tpu", implementation="tiled"))
    assert not kernels(lowered("tpu", width=4096))
    assert len(kernels(lowered_rows("tpu"))) == 2
    assert not kernels(lowered_rows("cpu"))
    for platform in ("cpu", "cuda"):
        text = lowered(platform)
        assert not kernels(text)
        assert text.count("stablehlo.dot_general") == 4


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_float32_products_are_exact_where_the_hardware_would_round(platform):
    text = lowered(platform, implementation="tiled")
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) == 4
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_float32_products_are_exact_inside_the_kernels():
    x, y, anchor_ids, key_ids = make(Case("square", 256, 256, width=128)).arrays

    def loss(x, y):
        kinds = [Reduction(20.0, max_scale=20.0, columns=True)]
        sides = (x, y, anchor_ids, key_ids)
        return total(reduce_pairs(*sides, kinds, implementation="pallas_tpu"))

    text = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, y))
    exact = "precision=(Precision.HIGHEST, Precision.HIGHEST)"
    assert text.count("dot_general[") == text.count(exact) == 4


def test_columns_stay_on_the_chip():
    """Two numbers of each of a million columns fit there, three do not."""
    columns = Reduction(20.0, max_scale=20.0, columns=True).static
    keys = 2**20

    def fits(*kinds):
        ids = Ids(*[jax.ShapeDtypeStruct((8,), jnp.int32)] * 2, (), None)
        rows = Rows(jax.ShapeDtypeStruct((8, 64), jnp.float32), ids, None)
        cols = Cols(jax.ShapeDtypeStruct((keys, 64), jnp.float32), ids, None, (None,) * len(kinds))
        return pallas_tpu.supports(rows, cols, Tiling(kinds, False))

    assert fits(columns, columns)
    assert not fits(columns, columns, columns)


def test_what_does_not_fit_is_refused_by_name():
    x, y, anchor_ids, key_ids = make(Case("wide", 8, 8, width=4096)).arrays
    with pytest.raises(ValueError, match="pallas_tpu does not serve"):
        reduce_pairs(x, y, anchor_ids, key_ids, [Reduction(1.0)], implementation="pallas_tpu")
