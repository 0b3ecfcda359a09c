import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.errors import UsageError
from simjax.models import dropout as drop

pytestmark = pytest.mark.usefixtures("strict_promotion")


def threefry(key, counter):
    """Threefry-2x32-20 as its paper (Salmon et al. 2011) writes it, in Python's integers."""
    mask = 0xFFFFFFFF
    schedule = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    a, b = ((c + k) & mask for c, k in zip(counter, key, strict=True))
    for number in range(20):
        by = (13, 15, 26, 6, 17, 29, 16, 24)[number % 8]
        a = (a + b) & mask
        b = ((b << by | b >> (32 - by)) & mask) ^ a
        if number % 4 == 3:
            group = number // 4 + 1
            a = (a + schedule[group % 3]) & mask
            b = (b + schedule[(group + 1) % 3] + group) & mask
    return a, b


def test_mask_is_eight_draws_of_each_threefry_block():
    key, site, shape = (0x12345678, 0x9ABCDEF0), 7, (3, 9)
    mask = drop.keep_mask(jnp.asarray([key], jnp.uint32), site, shape, 0.3)
    counters = 4  # 27 elements, 8 to a block
    draws = np.zeros((8, counters), np.int64)
    for counter in range(counters):
        words = threefry(key, (counter, site))
        draws[:, counter] = [word >> shift & 255 for word in words for shift in (0, 8, 16, 24)]
    expected = (draws.ravel()[:27] >= round(0.3 * 256)).reshape(shape)
    np.testing.assert_array_equal(mask[0], expected)
    assert 0 < expected.sum() < 27


def test_row_keys_are_folded_from_place_and_row():
    key = jax.random.key(3)
    found = drop.row_keys(key, jnp.asarray([4, 9]), 3)
    expected = [
        jax.random.key_data(jax.random.fold_in(jax.random.fold_in(key, place), row))
        for place in (4, 9)
        for row in range(3)
    ]
    np.testing.assert_array_equal(found, np.stack(expected))


def test_a_row_does_not_depend_on_the_others():
    key = jax.random.key(0)
    few = drop.keep_mask(drop.row_keys(key, jnp.asarray([5]), 2), 1, (64,), 0.1)
    many = drop.keep_mask(drop.row_keys(key, jnp.asarray([2, 5, 6]), 4), 1, (64,), 0.1)
    np.testing.assert_array_equal(few, many[4:6])


def test_rows_sites_and_keys_differ():
    keys = drop.row_keys(jax.random.key(0), jnp.arange(2), 2)
    other = drop.row_keys(jax.random.key(1), jnp.arange(2), 2)
    masks = [
        np.asarray(drop.keep_mask(k, site, (256,), 0.5)[row])
        for k in (keys, other)
        for site in range(3)
        for row in range(4)
    ]
    agreement = [np.mean(a == b) for i, a in enumerate(masks) for b in masks[:i]]
    assert min(agreement) > 0.35 and max(agreement) < 0.65


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5])
def test_what_is_kept_is_rescaled_by_the_true_rate(rate):
    keys = drop.row_keys(jax.random.key(0), jnp.arange(4), 8)
    x = jnp.ones((32, 4096), jnp.float32)
    y = np.asarray(drop.dropout(x, keys, 0, rate), np.float64)
    true_rate = round(rate * 256) / 256
    np.testing.assert_allclose(np.unique(y), [0.0, 1.0 / (1.0 - true_rate)], rtol=1e-6)
    # Five standard errors of a mean over 131,072 draws.
    error = 5 * np.sqrt(true_rate * (1 - true_rate) / y.size)
    np.testing.assert_allclose(np.mean(y == 0.0), true_rate, atol=error)
    np.testing.assert_allclose(y.mean(), 1.0, atol=error / (1 - true_rate))


def test_without_keys_or_rate_nothing_happens():
    x = jnp.ones((2, 8), jnp.bfloat16)
    keys = drop.row_keys(jax.random.key(0), jnp.arange(1), 2)
    assert drop.dropout(x, None, 0, 0.1) is x
    assert drop.dropout(x, keys, 0, 0.0) is x


@pytest.mark.parametrize(("rate", "levels"), [(0.0, 0), (0.1, 26), (0.15, 38), (0.5, 128)])
def test_rates_that_eight_bits_can_give(rate, levels):
    assert drop.dropped_levels(rate) == levels


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.999, 1.0, -0.1, float("nan")])
def test_rates_that_eight_bits_cannot_give(rate):
    with pytest.raises(UsageError, match="dropout rate"):
        drop.dropped_levels(rate)


def test_other_generators_are_refused():
    with pytest.raises(UsageError, match="threefry"):
        drop.row_keys(jax.random.key(0, impl="rbg"), jnp.arange(1), 2)
