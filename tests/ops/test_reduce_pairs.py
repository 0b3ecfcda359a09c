import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from simjax.ops import AnchorIds, KeyIds, Reduction, reduce_pairs
from tests.ops.cases import CASES, PLANS, Case, float64, key_bias, make, negatives, taken

pytestmark = pytest.mark.usefixtures("strict_promotion")
RAGGED = Case("ragged", 37, 70, duplicates=True)


def finite(x):
    return jnp.where(jnp.isfinite(x), x, 0.0)


def total(stats):
    """A scalar of rows and columns that passes over those without pairs.

    Weights are of mixed signs, so that no term of a gradient hides behind another, and none is
    another reduction's.
    """
    found = jax.tree.leaves((stats.rows, stats.cols))
    phases = jnp.arange(1.0, len(found) + 1)
    weights = [
        jnp.cos(p + jnp.arange(len(x), dtype=x.dtype)) for p, x in zip(phases, found, strict=True)
    ]
    return sum((w * finite(x)).sum() for w, x in zip(weights, found, strict=True))


def run(case, plan, implementation="tiled", *, dtype=jnp.float32, tile=(16, 24)):
    """Statistics, and gradients of anchors, keys, scales and biases."""
    pairs = make(case)
    x, y, anchor_ids, key_ids = pairs.arrays

    def loss(x, y, reductions):
        options = {"dtype": dtype, "tile": tile, "implementation": implementation}
        sides = (x, y, anchor_ids, key_ids)
        stats = reduce_pairs(*sides, reductions, guide=pairs.guide, **options)
        return total(stats), stats

    reductions = jax.tree.map(jnp.float32, PLANS[plan](case))
    grad = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
    (_, stats), grads = grad(x, y, reductions)
    return stats, grads


def assert_same(ours, expected, scale):
    """Statistics and gradients of one implementation are another's."""
    for one, other in zip(jax.tree.leaves(ours[0]), jax.tree.leaves(expected[0]), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=2e-6 * scale)
    # A scale's gradient is a sum over anchors whose terms are no larger than their gradients.
    terms = float(jnp.linalg.norm(expected[1][0], axis=1).sum())
    for one, other in zip(jax.tree.leaves(ours[1]), jax.tree.leaves(expected[1]), strict=True):
        assert one.dtype == jnp.float32
        largest = np.abs(other).max() if np.ndim(other) else terms / scale
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * largest)


def assert_defined(stats, case, plan):
    """Statistics are what float64 makes of the definitions."""
    pairs, kinds = make(case), PLANS[plan](case)
    tolerance = {"rtol": 1e-6, "atol": 2e-6 * case.scale}
    for k, kind in enumerate(kinds):
        np.testing.assert_allclose(stats.rows[k], float64(pairs, kind, 1), **tolerance)
        assert (stats.cols[k] is None) == (not kind.columns)
        if kind.columns:
            np.testing.assert_allclose(stats.cols[k], float64(pairs, kind, 0), **tolerance)
        assert (stats.counts[k] is None) == (not kind.counted)
        if kind.counted:
            np.testing.assert_array_equal(stats.counts[k], taken(pairs, kind, 1).sum(axis=1))
    cosines = pairs.x.astype(np.float64) @ pairs.y.astype(np.float64).T
    hardest = np.where(taken(pairs, kinds[0], 1), cosines, -np.inf).max(axis=1)
    np.testing.assert_allclose(stats.row_max, hardest, rtol=1e-5)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_reference_is_the_definition_and_tiles_give_the_reference(case, plan):
    expected = run(case, plan, "reference")
    assert_defined(expected[0], case, plan)
    assert_same(run(case, plan), expected, case.scale)


@pytest.mark.parametrize("tile", [(8, 8), (16, 64), (64, 16), None])
def test_the_shape_of_the_tiles_does_not_matter(tile):
    expected = run(RAGGED, "several scales", "reference")
    assert_same(run(RAGGED, "several scales", tile=tile), expected, RAGGED.scale)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("implementation", ["reference", "tiled"])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("scale", [3.0, 50.0])
def test_gradients_are_those_of_finite_differences(implementation, plan, scale):
    case = Case("small", 5, 7, width=6, scale=scale)
    pairs = make(case)
    x, y, anchor_ids, key_ids = pairs.arrays
    reductions = jax.tree.map(jnp.float32, PLANS[plan](case))
    structure = jax.tree.structure(reductions)
    fixed = [not r.gradient for r in reductions for _ in jax.tree.leaves(r)]
    numbers = jax.tree.leaves(reductions)

    def loss(x, y, *learned):
        given = iter(learned)
        leaves = [n if f else next(given) for n, f in zip(numbers, fixed, strict=True)]
        kinds = jax.tree.unflatten(structure, leaves)
        # A learned scale stays below its bound, and the frozen ones have no gradient to compare.
        sides = (x, y, anchor_ids, key_ids)
        stats = reduce_pairs(*sides, kinds, guide=pairs.guide, implementation=implementation)
        live = [k for k, kind in enumerate(kinds) if kind.gradient]
        parts = [stats.rows[k] for k in live] + [stats.cols[k] for k in live]
        found = [part for part in parts if part is not None]
        return (
            sum((jnp.cos(k + jnp.arange(len(p))) * finite(p)).sum() for k, p in enumerate(found))
            / scale
        )

    learned = [0.9 * n for n, f in zip(numbers, fixed, strict=True) if not f]
    tolerance = {"eps": 1e-2 / scale, "atol": 2e-2, "rtol": 2e-2}
    check_grads(jax.jit(loss), (x, y, *learned), order=1, modes=["rev"], **tolerance)


@pytest.mark.parametrize("implementation", ["reference", "tiled"])
@pytest.mark.parametrize("plan", ["rows and columns", "sigmoid", "several scales"])
def test_rows_without_pairs_are_empty_and_have_no_gradient(plan, implementation):
    case = next(case for case in CASES if case.lonely)
    stats, grads = run(case, plan, implementation)
    kinds = PLANS[plan](case)
    for row, kind in zip(stats.rows, kinds, strict=True):
        if kind.over == "text":
            assert np.all(np.asarray(row) == (-np.inf if kind.kind == "lse" else 0.0))
    assert np.all(np.isneginf(stats.row_max))
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))
    if all(kind.over == "text" for kind in kinds):
        assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("plan", ["rows and columns", "several scales", "sigmoid"])
def test_nan_is_not_taken_for_a_row_without_pairs(plan):
    pairs = make(RAGGED)
    x, y, anchor_ids, key_ids = pairs.arrays
    stats = reduce_pairs(x.at[3].set(jnp.nan), y, anchor_ids, key_ids, PLANS[plan](RAGGED))
    for row in stats.rows:
        assert np.isnan(row[3])


@pytest.mark.sampled(4)
@pytest.mark.parametrize("tile", [(16, 24), None])  # None is one tile, which compiles otherwise
@pytest.mark.parametrize("plan", ["rows and columns", "several scales", "guided"])
def test_bfloat16_operands_are_summed_in_float32(plan, tile):
    case = Case("wide", 64, 64, width=384)
    stats, grads = run(case, plan, dtype=jnp.bfloat16, tile=tile)
    pairs = make(case)
    rounded = [np.asarray(jnp.asarray(v, jnp.bfloat16), np.float32) for v in (pairs.x, pairs.y)]
    guide = jax.tree.map(lambda v: v, pairs.guide)
    guide = type(guide)(
        *(v.astype(jnp.bfloat16).astype(jnp.float32) for v in (guide.anchors, guide.keys)),
        guide.anchor_limits,
        guide.key_limits,
    )
    exact = type(pairs)(*rounded, pairs.anchor_ids, pairs.key_ids, guide)
    for row, kind in zip(stats.rows, PLANS[plan](case), strict=True):
        np.testing.assert_allclose(row, float64(exact, kind, 1), rtol=1e-6, atol=1e-5)
    _, expected = run(case, plan, "reference", dtype=jnp.bfloat16)
    for one, other in zip(grads[:2], expected[:2], strict=True):
        assert one.dtype == jnp.float32
        assert np.linalg.norm(one - other) < 1e-2 * np.linalg.norm(other)


def test_what_is_asked_for_must_be_possible():
    x, y, anchor_ids, key_ids = make(RAGGED).arrays
    with pytest.raises(ValueError, match="at least one"):
        reduce_pairs(x, y, anchor_ids, key_ids, [])
    with pytest.raises(ValueError, match="needs a guide"):
        reduce_pairs(x, y, anchor_ids, key_ids, [Reduction(1.0, guided=True)])
    for wrong in ({"kind": "sofplus"}, {"over": "texts"}):
        with pytest.raises(ValueError, match="choose one of"):
            Reduction(1.0, **wrong)
    for wrong in ({"implementation": "tilde"}, {"exchange": "rings"}, {"dtype": jnp.float16}):
        with pytest.raises(ValueError, match="choose"):
            reduce_pairs(x, y, anchor_ids, key_ids, [Reduction(1.0)], **wrong)


@pytest.mark.parametrize("implementation", ["reference", "tiled"])
def test_without_a_differentiable_reduction_gradients_are_zero(implementation):
    x, y, anchor_ids, key_ids = make(RAGGED).arrays

    def loss(x, scale):
        kinds = [Reduction(scale, key_bias(RAGGED), gradient=False)]
        return total(reduce_pairs(x, y, anchor_ids, key_ids, kinds, implementation=implementation))

    for grad in jax.grad(loss, (0, 1))(x, jnp.float32(3.0)):
        assert not np.any(np.asarray(grad))


def test_a_scale_beyond_its_bound_is_not_passed_over():
    x, y, anchor_ids, key_ids = make(RAGGED).arrays
    for scale, bound in ((20.0, 20.0), (1 / 0.07, float(np.float32(1 / 0.07)))):
        kinds = [Reduction(jnp.float32(scale), max_scale=bound)]
        assert np.isfinite(reduce_pairs(x, y, anchor_ids, key_ids, kinds).rows[0]).all()
    kinds = [Reduction(20.1, max_scale=20.0)]
    assert np.isnan(reduce_pairs(x, y, anchor_ids, key_ids, kinds).rows[0]).all()


def test_second_derivatives_are_those_of_the_definition():
    pairs = make(Case("small", 5, 7, width=6, scale=3.0))
    x, y, anchor_ids, key_ids = pairs.arrays
    mask = jnp.asarray(negatives(pairs, "text"))

    def ours(x):
        kinds = [Reduction(3.0, max_scale=3.0)]
        return finite(reduce_pairs(x, y, anchor_ids, key_ids, kinds).rows[0]).sum()

    def definition(x):
        scores = jnp.where(mask, 3.0 * jnp.matmul(x, y.T, precision="highest"), -jnp.inf)
        return jax.nn.logsumexp(scores, axis=1).sum()

    second, exact = (
        jax.jit(jax.grad(lambda x, f=f: (jax.grad(f)(x) ** 2).sum()))(x) for f in (ours, definition)
    )
    np.testing.assert_allclose(second, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("implementation", ["reference", "tiled"])
def test_of_one_side_texts_with_a_common_partner_are_no_negatives(implementation):
    """Anchors against anchors: two questions with one answer."""
    x = make(Case("square", 4, 4)).arrays[0]
    example, text = jnp.arange(4), jnp.arange(4)
    answers, unknown = jnp.array([[10], [11], [10], [12]]), jnp.full(4, -1)
    sides = (
        x,
        x,
        AnchorIds(example, text, answers, unknown),
        KeyIds(example, text, answers, unknown),
    )
    counts = [
        reduce_pairs(
            *sides, [Reduction(1.0, counted=True)], one_side=one, implementation=implementation
        ).counts[0]
        for one in (False, True)
    ]
    np.testing.assert_array_equal(counts[0], [3, 3, 3, 3])
    np.testing.assert_array_equal(counts[1], [2, 3, 2, 3])


def lowered(case, plan, tile, *, guide=False):
    pairs = make(case)
    x, y, anchor_ids, key_ids = pairs.arrays

    def loss(x, y):
        sides, seen = (x, y, anchor_ids, key_ids), pairs.guide if guide else None
        return total(reduce_pairs(*sides, PLANS[plan](case), guide=seen, tile=tile))

    return jax.jit(jax.grad(loss, (0, 1))).lower(x, y)


@pytest.mark.parametrize("plan", [plan for plan in PLANS if plan != "guided"])
def test_whatever_is_asked_for_costs_the_products_of_one_direction(plan):
    text = lowered(Case("square", 64, 64), plan, (16, 16)).as_text()
    assert text.count("stablehlo.dot_general") == 4


def test_a_guide_costs_its_own_products_alone():
    text = lowered(Case("square", 64, 64), "guided", (16, 16), guide=True).as_text()
    assert text.count("stablehlo.dot_general") == 4 + 2


@pytest.mark.parametrize("plan", ["several scales", "guided"])
def test_no_array_of_all_pairs_is_made(plan):
    n = 512
    compiled = lowered(Case("square", n, n, width=16), plan, (64, 64), guide=True).compile()
    assert f"f32[{n},{n}]" not in compiled.as_text()
    assert f"pred[{n},{n}]" not in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes < n * n * 4
