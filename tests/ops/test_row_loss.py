"""`row_loss` is the sum of a function of `reduce_pairs`' rows, in three products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P
from jax.test_util import check_grads

from simjax.mesh import MeshConfig, batch_sharding, make_mesh
from simjax.ops import Reduction, reduce_pairs, row_loss
from tests.ops.cases import CASES, Case, make

pytestmark = pytest.mark.usefixtures("strict_promotion")


def softplus_rows(reduced, arguments):
    """An InfoNCE of weighted rows, and 1 for each, so that one of padding would be noticed."""
    lse = reduced[0]
    some = lse != -jnp.inf
    v = jnp.where(some, lse, 0.0) - arguments["positive"]
    return 1 + arguments["weight"] * jnp.where(some, jax.nn.softplus(v), 0.0)


def arguments_of(case, pairs):
    cosine = (pairs.x * pairs.y[np.arange(case.anchors) % case.keys]).sum(-1)
    return {
        "positive": jnp.asarray(case.scale * cosine),
        "weight": jnp.cos(1.0 + jnp.arange(case.anchors, dtype=jnp.float32)),
    }


def spread():
    return Reduction(4.0, over="spread", max_scale=4.0, counted=True, gradient=False)


def run(case, *, whole=False, reductions=None, **options):
    pairs = make(case)
    x, y, anchor_ids, key_ids = pairs.arrays
    options = {"guide": pairs.guide, "tile": (16, 24)} | options
    reductions = reductions or [Reduction(case.scale, max_scale=case.scale), spread()]

    def loss(arguments, x, y, reductions):
        operands = (x, y, anchor_ids, key_ids, reductions)
        if whole:
            stats = reduce_pairs(*operands, **options)
            return softplus_rows(stats.rows, arguments).sum(), stats
        return row_loss(softplus_rows, arguments, *operands, **options)

    args = (arguments_of(case, pairs), x, y, jax.tree.map(jnp.float32, reductions))
    grad = jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True)
    return jax.jit(grad)(*args), jax.jit(loss)(*args)


def assert_close(ours, expected, scale):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        atol = 1e-5 * max(np.abs(np.where(np.isfinite(other), other, 0)).max(), 1e-3 * scale)
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=atol)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("rule", ["none", "text", "label"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_strips_give_the_reference(case, rule):
    reductions = [Reduction(case.scale, over=rule, max_scale=case.scale), spread()]
    with_grad, alone = run(case, reductions=reductions)
    expected, _ = run(case, reductions=reductions, whole=True, implementation="reference")
    assert_close(with_grad, expected, case.scale)
    assert_close(alone, expected[0], case.scale)


PLANS = {
    "bias": lambda case: [Reduction(case.scale, jnp.sin(jnp.arange(float(case.keys))))],
    "sigmoid": lambda case: [Reduction(case.scale, -10.0, kind="softplus"), spread()],
    "guided": lambda case: [Reduction(case.scale, max_scale=case.scale, guided=True)],
    "two": lambda case: [Reduction(case.scale, max_scale=case.scale), Reduction(3.0)],
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("scale", [20.0, 60.0])
@pytest.mark.parametrize("plan", PLANS)
def test_biases_sigmoids_guides_and_several_scales(plan, scale):
    case = Case("ragged", 37, 70, duplicates=True, scale=scale)
    reductions = PLANS[plan](case)
    with_grad, alone = run(case, reductions=reductions)
    expected, _ = run(case, reductions=reductions, whole=True, implementation="reference")
    assert_close(with_grad, expected, case.scale)
    assert_close(alone, expected[0], case.scale)


def test_a_loss_that_padding_has_no_value_of_leaves_no_trace():
    case = Case("ragged", 37, 70, duplicates=True)
    x, y, anchor_ids, key_ids = make(case).arrays
    sides = (x, y, anchor_ids, key_ids, [Reduction(5.0, kind="softplus")])

    def loss(x, y, weights, implementation):
        options = {"tile": (16, 24), "implementation": implementation}
        return row_loss(lambda r, w: jnp.log(r[0]) / w, weights, x, y, *sides[2:], **options)[0]

    grad = jax.grad(loss, (0, 1, 2))
    weights = 1.5 + jnp.cos(jnp.arange(37.0, dtype=jnp.float32))
    ours, expected = (grad(x, y, weights, name) for name in ("tiled", "reference"))
    assert_close(ours, expected, 5.0)


def test_columns_are_refused():
    with pytest.raises(ValueError, match="no columns"):
        run(Case("square", 16, 16), reductions=[Reduction(20.0, columns=True)])


def test_the_reference_of_row_loss_is_that_of_reduce_pairs():
    case = Case("ragged", 37, 70, duplicates=True)
    ours, _ = run(case, implementation="reference")
    expected, _ = run(case, whole=True, implementation="reference")
    assert_close(ours, expected, case.scale)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("tile", [(8, 8), (16, 64), (40, 72), None])
@pytest.mark.parametrize("scale", [20.0, 60.0])
def test_the_shape_of_the_strips_does_not_matter(tile, scale):
    case = Case("ragged", 37, 70, duplicates=True, scale=scale)
    ours, _ = run(case, tile=tile)
    expected, _ = run(case, whole=True, implementation="reference")
    assert_close(ours, expected, scale)


@pytest.mark.parametrize("tile", [(16, 24), None])  # None is one tile, which compiles otherwise
@pytest.mark.parametrize("scale", [20.0, 60.0])
def test_bfloat16_rounds_the_operands_and_sums_in_float32(scale, tile):
    case = Case("wide", 64, 64, width=384, scale=scale)
    ours, _ = run(case, dtype=jnp.bfloat16, tile=tile)
    expected, _ = run(case, whole=True, dtype=jnp.bfloat16, implementation="reference")
    np.testing.assert_allclose(ours[0][0], expected[0][0], rtol=1e-5)
    for one, other in zip(ours[1][1:3], expected[1][1:3], strict=True):
        assert one.dtype == jnp.float32
        assert np.linalg.norm(one - other) < 5e-3 * np.linalg.norm(other)


@pytest.mark.parametrize("scale", [3.0, 50.0])
def test_gradients_are_those_of_finite_differences(scale):
    case = Case("small", 5, 7, width=6, scale=scale)
    pairs = make(case)
    x, y, anchor_ids, key_ids = pairs.arrays

    def loss(arguments, x, y, scale):
        operands = (x, y, anchor_ids, key_ids, [Reduction(scale, max_scale=case.scale)])
        return row_loss(softplus_rows, arguments, *operands)[0] / scale

    args = (arguments_of(case, pairs), x, y, jnp.float32(scale * 0.9))
    check_grads(loss, args, order=1, modes=["rev"], eps=1e-2 / scale, atol=2e-2, rtol=2e-2)


def on_mesh(data, fsdp, scale):
    case = Case("square", 64, 64, duplicates=True, scale=scale)
    mesh = make_mesh(MeshConfig(data, fsdp), jax.devices()[: data * fsdp])
    pairs = make(case)
    part = P(("data", "fsdp"))
    split = jax.device_put((arguments_of(case, pairs), *pairs.arrays), batch_sharding(mesh))

    def local(arguments, x, y, anchor_ids, key_ids):
        scale = jax.lax.pcast(jnp.float32(case.scale), ("data", "fsdp"), to="varying")

        def loss(arguments, x, y, scale):
            reductions = [Reduction(scale, max_scale=case.scale), spread()]
            return row_loss(softplus_rows, arguments, x, y, anchor_ids, key_ids, reductions)

        grad = jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True)
        (value, stats), (*grads, d_scale) = grad(arguments, x, y, scale)
        sums = jax.lax.psum((value, d_scale), ("data", "fsdp"))
        return sums, stats.rows, stats.row_max, grads

    specs = {"in_specs": part, "out_specs": (P(), part, part, part)}
    run = jax.jit(jax.shard_map(local, mesh=mesh, **specs))
    return jax.tree.map(np.asarray, run(*split))


@pytest.mark.parametrize("scale", [20.0, 60.0])
@pytest.mark.parametrize("shape", [(8, 1), (2, 4)])
def test_the_gradient_does_not_depend_on_the_device_count(shape, scale):
    assert_close(on_mesh(*shape, scale), on_mesh(1, 1, scale), scale)


def lowered(n, tile):
    x, y, anchor_ids, key_ids = make(Case("square", n, n, width=16)).arrays
    arguments = arguments_of(Case("square", n, n, width=16), make(Case("square", n, n, width=16)))

    def loss(x, y):
        operands = (x, y, anchor_ids, key_ids, [Reduction(20.0, max_scale=20.0), spread()])
        return row_loss(softplus_rows, arguments, *operands, tile=tile)[0]

    return jax.jit(jax.grad(loss, (0, 1))).lower(x, y)


def test_value_and_gradient_take_three_products():
    assert lowered(64, (16, 16)).as_text().count("stablehlo.dot_general") == 3


def test_no_array_of_all_pairs_is_made():
    compiled = lowered(512, (64, 128)).compile()
    assert "f32[512,512]" not in compiled.as_text()
    assert "f32[4,64,128]" in compiled.as_text()  # a strip is
    assert compiled.memory_analysis().temp_size_in_bytes < 512 * 512 * 4
