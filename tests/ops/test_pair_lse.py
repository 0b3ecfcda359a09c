import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from simjax.ops import pair_lse
from tests.ops.cases import CASES, Case, float64_lse, make, negatives

pytestmark = pytest.mark.usefixtures("strict_promotion")


def weights(n):
    """Cotangents of mixed signs, so that no term of a gradient hides behind another."""
    return jnp.cos(1.0 + jnp.arange(n, dtype=jnp.float32))


def total(stats):
    """A scalar of rows and columns that passes over those without negatives."""
    out = jnp.float32(0)
    for lse in (stats.row, stats.col):
        if lse is not None:
            out += (weights(lse.shape[0]) * jnp.where(jnp.isfinite(lse), lse, 0.0)).sum()
    return out


def run(case, implementation, *, rule="text", columns=True, dtype=jnp.float32, tile=(16, 24)):
    x, y, anchor_ids, key_ids = make(case).arrays

    def loss(x, y, scale):
        stats = pair_lse(
            x,
            y,
            anchor_ids,
            key_ids,
            scale,
            max_scale=case.scale,
            false_negatives=rule,
            columns=columns,
            dtype=dtype,
            tile=tile,
            implementation=implementation,
        )
        return total(stats), stats

    scale = jnp.float32(case.scale)
    grad = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
    (_, stats), grads = grad(x, y, scale)
    return stats, grads


@pytest.mark.parametrize("rule", ["none", "text", "label"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_reference_is_the_definition_in_float64(case, rule):
    pairs = make(case)
    stats, _ = run(case, "reference", rule=rule)
    for ours, axis in ((stats.row, 1), (stats.col, 0)):
        expected = float64_lse(pairs, case.scale, rule, axis)
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=2e-6 * case.scale)
    cosines = pairs.x.astype(np.float64) @ pairs.y.astype(np.float64).T
    hardest = np.where(negatives(pairs, rule), cosines, -np.inf).max(axis=1)
    np.testing.assert_allclose(stats.row_max, hardest, rtol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("columns", [False, True])
def test_tiles_give_the_reference(case, columns):
    stats, grads = run(case, "tiled", columns=columns)
    expected, expected_grads = run(case, "reference", columns=columns)
    assert (stats.col is None) == (not columns)
    for ours, theirs in zip(jax.tree.leaves(stats), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6 * case.scale)
    for ours, theirs in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("tile", [(8, 8), (16, 64), (64, 16), None])
def test_the_shape_of_the_tiles_does_not_matter(tile):
    case = Case("ragged", 37, 70, duplicates=True)
    stats, grads = run(case, "tiled", tile=tile)
    expected, expected_grads = run(case, "reference")
    np.testing.assert_allclose(stats.row, expected.row, rtol=2e-6)
    largest = np.abs(expected_grads[1]).max()
    np.testing.assert_allclose(grads[1], expected_grads[1], rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("implementation", ["reference", "tiled"])
@pytest.mark.parametrize("scale", [3.0, 50.0])
def test_gradients_are_those_of_finite_differences(implementation, scale):
    case = Case("small", 5, 7, width=6, scale=scale)
    x, y, anchor_ids, key_ids = make(case).arrays

    def loss(x, y, scale):
        options = {"max_scale": case.scale, "columns": True, "implementation": implementation}
        return total(pair_lse(x, y, anchor_ids, key_ids, scale, **options)) / scale

    args = (x, y, jnp.float32(scale * 0.9))
    check_grads(loss, args, order=1, modes=["rev"], eps=1e-2 / scale, atol=2e-2, rtol=2e-2)


def test_rows_without_negatives_are_minus_infinity_and_have_no_gradient():
    case = next(case for case in CASES if case.lonely)
    for implementation in ("reference", "tiled"):
        stats, grads = run(case, implementation)
        assert np.all(np.isneginf(stats.row))
        assert np.all(np.isneginf(stats.row_max))
        assert all(np.all(np.asarray(g) == 0) for g in grads)


@pytest.mark.parametrize("tile", [(16, 24), None])  # None is one tile, which compiles otherwise
def test_bfloat16_operands_are_summed_in_float32(tile):
    case = Case("wide", 64, 64, width=384)
    stats, grads = run(case, "tiled", dtype=jnp.bfloat16, tile=tile)
    pairs = make(case)
    rounded = [np.asarray(jnp.asarray(v, jnp.bfloat16), np.float32) for v in (pairs.x, pairs.y)]
    exact = float64_lse(type(pairs)(*rounded, pairs.anchor_ids, pairs.key_ids), 20.0, "text", 1)
    np.testing.assert_allclose(stats.row, exact, rtol=1e-6, atol=1e-5)
    _, exact_grads = run(case, "reference")
    for ours, theirs in zip(grads[:2], exact_grads[:2], strict=True):
        assert ours.dtype == jnp.float32
        assert np.linalg.norm(ours - theirs) < 1e-2 * np.linalg.norm(theirs)


def test_uniformity_rides_on_the_same_tiles():
    case = Case("ragged", 37, 70, duplicates=True)
    pairs = make(case)
    stats, _ = run(case, "tiled", rule="none")
    a, k = pairs.anchor_ids, pairs.key_ids
    squared = ((pairs.x[:, None].astype(np.float64) - pairs.y[None]) ** 2).sum(-1)
    apart = np.asarray(a.example)[:, None] != np.asarray(k.example)[None]
    apart &= np.asarray(a.text)[:, None] != np.asarray(k.text)[None]
    apart &= (np.asarray(k.partners)[:, 0] >= 0)[None]
    assert float(stats.pairs) == apart.sum()
    np.testing.assert_allclose(stats.potential, np.exp(-2 * squared)[apart].sum(), rtol=1e-5)


def test_symmetric_costs_the_products_of_one_direction():
    case = Case("square", 64, 64)
    x, y, anchor_ids, key_ids = make(case).arrays

    def dots(columns):
        def loss(x, y):
            options = {"max_scale": 20.0, "columns": columns, "tile": (16, 16)}
            return total(pair_lse(x, y, anchor_ids, key_ids, 20.0, **options))

        lowered = jax.jit(jax.grad(loss, (0, 1))).lower(x, y)
        return lowered.as_text().count("stablehlo.dot_general")

    assert dots(True) == dots(False) == 4


def test_no_array_of_all_pairs_is_made():
    n = 512
    x, y, anchor_ids, key_ids = make(Case("square", n, n, width=16)).arrays

    def loss(x, y):
        options = {"max_scale": 20.0, "columns": True, "tile": (64, 64)}
        return total(pair_lse(x, y, anchor_ids, key_ids, 20.0, **options))

    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(x, y).compile()
    assert f"f32[{n},{n}]" not in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes < n * n * 4
