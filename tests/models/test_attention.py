import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.models import dropout as drop
from simjax.models.attention import attend, same_text

pytestmark = pytest.mark.usefixtures("strict_promotion")

ROWS, LENGTH, HEADS, WIDTH = 3, 11, 4, 20
TEXT = jnp.asarray([[0] * 4 + [1] * 7, [2] * 11, [3] * 2 + [4] * 5 + [-1] * 4], jnp.int32)
RATE = 0.3


def by_hand(qkv, keep):
    """The definition in float64; differentiable by hand through finite differences only."""
    q, k, v = np.split(np.asarray(qkv, np.float64), 3, axis=-1)
    heads = [x.reshape(ROWS, LENGTH, HEADS, -1).transpose(0, 2, 1, 3) for x in (q, k, v)]
    q, k, v = heads
    scores = q @ k.swapaxes(2, 3) / np.sqrt(WIDTH // HEADS)
    text = np.asarray(TEXT)
    scores = np.where((text[:, :, None] == text[:, None, :])[:, None], scores, -np.inf)
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
    found = jax.jit(attend, static_argnums=(4, 5))(qkv, same_text(TEXT), keys, 6, HEADS, RATE)
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
        context = attend(qkv, same_text(TEXT), keys, 6, HEADS, RATE)
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
    before = attend(qkv, same_text(TEXT), None, 0, HEADS, 0.0)
    after = attend(other, same_text(TEXT), None, 0, HEADS, 0.0)
    np.testing.assert_array_equal(before[0, :4], after[0, :4])
    np.testing.assert_array_equal(before[2, :7], after[2, :7])
    assert np.abs(np.asarray(before[0, 4:]) - np.asarray(after[0, 4:])).max() > 0.1


def test_scores_of_any_size_are_finite():
    qkv = 1e4 * jax.random.normal(jax.random.key(1), (ROWS, LENGTH, 3 * WIDTH))
    value, pull = jax.vjp(lambda x: attend(x, same_text(TEXT), None, 0, HEADS, 0.0), qkv)
    assert np.isfinite(value).all() and np.isfinite(pull(value)[0]).all()
