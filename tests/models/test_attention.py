import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from simjax.models import attention
from simjax.models import dropout as drop
from simjax.models.attention import Heads, attend, attend_fused, attend_in_blocks, may_see

pytestmark = pytest.mark.usefixtures("strict_promotion")

ROWS, LENGTH, HEADS, WIDTH = 3, 11, 4, 20
TEXT = jnp.asarray([[0] * 4 + [1] * 7, [2] * 11, [3] * 2 + [4] * 5 + [-1] * 4], jnp.int32)
RATE = 0.3
DISTANCE = np.arange(LENGTH)[:, None] - np.arange(LENGTH)[None, :]
RELATIVE = np.random.default_rng(4).normal(size=(HEADS, LENGTH, LENGTH)).astype(np.float32)


def attended(qkv, keys, *, relative=None, window=None):
    q, k, v = jnp.split(qkv, 3, axis=-1)
    bias = may_see(TEXT, TEXT, jnp.asarray(DISTANCE), window)
    mask = None if keys is None else (keys, 6)
    return attend(q, k, v, bias, relative, mask, Heads(HEADS, RATE, HEADS))


def by_hand(qkv, keep, *, relative=None, window=None):
    """The definition in float64; differentiable by hand through finite differences only."""
    q, k, v = np.split(np.asarray(qkv, np.float64), 3, axis=-1)
    heads = [x.reshape(ROWS, LENGTH, HEADS, -1).transpose(0, 2, 1, 3) for x in (q, k, v)]
    q, k, v = heads
    scores = q @ k.swapaxes(2, 3) / np.sqrt(WIDTH // HEADS)
    text = np.asarray(TEXT)
    seen = text[:, :, None] == text[:, None, :]
    if window is not None:
        seen &= np.abs(DISTANCE) <= window
    if relative is not None:
        scores = scores + np.asarray(relative, np.float64).swapaxes(1, 2)
    scores = np.where(seen[:, None], scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    if keep is not None:
        p = np.where(keep, p / (1.0 - round(RATE * 256) / 256), 0.0)
    return (p @ v).transpose(0, 2, 1, 3).reshape(ROWS, LENGTH, WIDTH)


@pytest.fixture(params=[None, RATE], ids=["no dropout", "dropout"])
def masks(request):
    """Keys for the code; for the definition, the mask with queries before keys."""
    if request.param is None:
        return None, None
    keys = drop.row_keys(jax.random.key(0), jnp.arange(ROWS), 1)
    keep = drop.keep_mask(keys, 6, (HEADS, LENGTH, LENGTH), RATE)
    return keys, np.asarray(keep).swapaxes(2, 3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-6), (jnp.bfloat16, 2e-2)])
def test_value(masks, dtype, tolerance):
    keys, keep = masks
    qkv = jax.random.normal(jax.random.key(1), (ROWS, LENGTH, 3 * WIDTH)).astype(dtype)
    found = jax.jit(attended)(qkv, keys)
    assert found.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(found, np.float64), by_hand(qkv, keep), atol=tolerance, rtol=tolerance
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 5e-2)])
def test_gradient(masks, dtype, tolerance):
    keys, keep = masks
    qkv = jax.random.normal(jax.random.key(1), (ROWS, LENGTH, 3 * WIDTH)).astype(dtype)
    weights = np.random.default_rng(2).normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)

    def loss(qkv):
        context = attended(qkv, keys)
        return jnp.sum(context.astype(jnp.float32) * weights)

    gradient = np.asarray(jax.jit(jax.grad(loss))(qkv), np.float64)
    exact, base, step = np.zeros(200), np.asarray(qkv, np.float64), 1e-6
    places = np.random.default_rng(3).integers(0, base.size, exact.size)
    for number, place in enumerate(places):
        values = []
        for sign in (1, -1):
            moved = base.copy()
            moved.flat[place] += sign * step
            values.append(np.sum(by_hand(moved, keep) * weights))
        exact[number] = (values[0] - values[1]) / (2 * step)
    scale = np.abs(exact).max()
    np.testing.assert_allclose(gradient.flat[places], exact, atol=tolerance * scale)


def test_texts_do_not_see_each_other():
    qkv = jax.random.normal(jax.random.key(1), (ROWS, LENGTH, 3 * WIDTH))
    other = qkv.at[0, 4:].set(9.0).at[2, 7:].set(jnp.float32(1e4))
    before = attended(qkv, None)
    after = attended(other, None)
    np.testing.assert_array_equal(before[0, :4], after[0, :4])
    np.testing.assert_array_equal(before[2, :7], after[2, :7])
    assert np.abs(np.asarray(before[0, 4:]) - np.asarray(after[0, 4:])).max() > 0.1


def test_scores_of_any_size_are_finite():
    qkv = 1e4 * jax.random.normal(jax.random.key(1), (ROWS, LENGTH, 3 * WIDTH))
    value, pull = jax.vjp(lambda x: attended(x, None), qkv)
    assert np.isfinite(value).all() and np.isfinite(pull(value)[0]).all()


def test_scores_by_distance(masks):
    """Their value, and their gradient: summed over rows, and over texts that see nothing else."""
    keys, keep = masks
    qkv = jax.random.normal(jax.random.key(1), (ROWS, LENGTH, 3 * WIDTH))
    weights = np.random.default_rng(2).normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
    found = attended(qkv, keys, relative=jnp.asarray(RELATIVE))
    expected = by_hand(qkv, keep, relative=RELATIVE)
    np.testing.assert_allclose(found, expected, atol=2e-6, rtol=2e-6)

    gradient = jax.grad(lambda r: jnp.sum(attended(qkv, keys, relative=r) * weights))(
        jnp.asarray(RELATIVE)
    )
    for place in np.random.default_rng(3).integers(0, RELATIVE.size, 40):
        values = []
        for sign in (1, -1):
            moved = RELATIVE.astype(np.float64)
            moved.flat[place] += sign * 1e-6
            values.append(np.sum(by_hand(qkv, keep, relative=moved) * weights))
        exact = (values[0] - values[1]) / 2e-6
        np.testing.assert_allclose(np.asarray(gradient).flat[place], exact, atol=2e-5)


@pytest.mark.parametrize("window", [None, 0, 2, 20])
@pytest.mark.parametrize("block", [3, 4, 16])
def test_blocks_of_queries(window, block):
    """The same as all queries at once, in value and gradient, whatever the block's size."""
    qkv = jax.random.normal(jax.random.key(1), (ROWS, LENGTH, 3 * WIDTH))
    weights = np.random.default_rng(2).normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)

    def in_blocks(qkv):
        q, k, v = jnp.split(qkv, 3, axis=-1)
        heads = Heads(HEADS, RATE, HEADS)
        return attend_in_blocks(q, k, v, TEXT, None, heads, block=block, window=window)

    expected = by_hand(qkv, None, window=window)
    np.testing.assert_allclose(in_blocks(qkv), expected, atol=2e-6, rtol=2e-6)
    whole = jax.grad(lambda x: jnp.sum(attended(x, None, window=window) * weights))(qkv)
    found = jax.jit(jax.grad(lambda x: jnp.sum(in_blocks(x) * weights)))(qkv)
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_blocks_of_queries_have_masks_of_their_own():
    """Each drops at the rate, and no two blocks drop the same."""
    text, length = jnp.zeros((1, 64), jnp.int32), 64
    keys = drop.row_keys(jax.random.key(0), jnp.arange(1), 1)
    q = k = jnp.zeros((1, length, 64))
    v, one = jnp.eye(length)[None], Heads(1, 0.25, 1)
    found = attend_in_blocks(q, k, v, text, (keys, 6), one, block=16, window=None)
    dropped = np.asarray(found[0] == 0).reshape(4, 16, length)
    assert abs(dropped.mean() - 0.25) < 0.03
    assert len({block.tobytes() for block in dropped}) == 4
    again = attend_in_blocks(q, k, v, text, (keys, 6), one, block=16, window=None)
    np.testing.assert_array_equal(found, again)


@pytest.mark.parametrize("window", [None, 2])
def test_fused_attention_is_told_the_same(window):
    """Who sees whom, heads and scale: by JAX's own formula in the kernel's place."""
    q, k, v = jnp.split(jax.random.normal(jax.random.key(1), (ROWS, LENGTH, 3 * WIDTH)), 3, axis=-1)
    queries = slice(3, 9)  # fewer queries than keys, as long rows have them
    bias = may_see(TEXT, TEXT, jnp.asarray(DISTANCE), window)[:, :, queries]
    heads = Heads(HEADS, 0.0, HEADS)

    def value_and_gradient(function):
        return jax.value_and_grad(lambda *x: jnp.sum(jnp.sin(function(*x))), argnums=(0, 1, 2))(
            q[:, queries], k, v
        )

    fused = value_and_gradient(lambda q, k, v: attend_fused(q, k, v, bias, HEADS, "xla"))
    here = value_and_gradient(lambda q, k, v: attend(q, k, v, bias, None, None, heads))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), fused, here)


def test_a_gpu_gets_cudnns_kernel(monkeypatch):
    """In half precision and without dropout; compiled as far as it can be without a GPU."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(attention, "_has_fused_attention", lambda: True)
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)

    def lowered(dtype, keys, gradient):
        def run(qkv):
            q, k, v = jnp.split(qkv, 3, axis=-1)
            text = jnp.zeros((2, 128), jnp.int32)
            mask = None if keys is None else (keys, 6)
            context = attend(q, k, v, may_see(text, text), None, mask, Heads(2, RATE, 2))
            return jnp.sum(context.astype(jnp.float32))

        function = jax.jit(jax.grad(run) if gradient else run)
        shape = jax.ShapeDtypeStruct((2, 128, 3 * 128), dtype)
        calls = ("__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward")
        known = [export.DisabledSafetyCheck.custom_call(name) for name in calls]
        return export.export(function, platforms=["cuda"], disabled_checks=known)(
            shape
        ).mlir_module()

    assert "__cudnn$fmha" in lowered(jnp.bfloat16, None, False)
    assert "Backward" in lowered(jnp.bfloat16, None, True)
    keys = drop.row_keys(jax.random.key(0), jnp.arange(2), 1)
    for dtype, own_keys in ((jnp.float32, None), (jnp.bfloat16, keys)):
        assert "__cudnn" not in lowered(dtype, own_keys, True)
