import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.ops.top_k import NO_KEY, nothing_found, score_pairs, update_top_k

pytestmark = pytest.mark.usefixtures("strict_promotion")


def whole_numbers(seed, count, width=8):
    """Vectors whose products are exact in float32, with many ties."""
    return np.random.default_rng(seed).integers(-3, 4, (count, width)).astype(np.float32)


def best(scores, k):
    """Float64 reference: by score, then by number."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


def test_found_in_parts_equals_a_sort_with_ties_by_number():
    queries, keys = whole_numbers(0, 9), whole_numbers(1, 100)
    expected = best(queries.astype(np.float64) @ keys.astype(np.float64).T, 7)
    for tile in (4, 16):
        found = nothing_found(9, 7)
        for first in (0, 48, 96):
            part = np.zeros((48, 8), np.float32)
            there = keys[first : first + 48]
            part[: len(there)] = there
            update = jax.jit(update_top_k, static_argnames="tile")
            found = update(found, queries, part, jnp.int32(first), len(there), tile=tile)
        np.testing.assert_array_equal(found.scores, expected[0])
        np.testing.assert_array_equal(found.keys, expected[1])


def test_places_without_a_key():
    found = nothing_found(2, 5)
    queries = -np.ones((2, 3), np.float32)
    found = update_top_k(found, queries, np.ones((8, 3), np.float32), jnp.int32(4), 2, tile=8)
    np.testing.assert_array_equal(found.keys, [[4, 5, NO_KEY, NO_KEY, NO_KEY]] * 2)
    np.testing.assert_array_equal(found.scores, [[-3, -3, -np.inf, -np.inf, -np.inf]] * 2)


def test_bytes_are_scored_as_the_numbers_they_are():
    codes = np.random.default_rng(0).integers(-128, 128, (20, 16)).astype(np.int8)
    queries = whole_numbers(2, 3, 16)
    expected = queries.astype(np.float64) @ codes.T.astype(np.float64)
    np.testing.assert_array_equal(score_pairs(queries, codes), expected)


def test_bits_are_scored_by_how_many_differ():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, (3, 96)), rng.integers(0, 2, (20, 96))

    def words(x):
        return np.packbits(x.astype(bool), axis=1).view(np.uint32)

    found = score_pairs(words(a), words(b), "bits")
    np.testing.assert_array_equal(found, -(a[:, None] != b[None]).sum(-1))


def test_no_tensor_holds_all_scores():
    def search(queries, keys):
        return update_top_k(nothing_found(32, 4), queries, keys, 0, 4096, tile=64)

    shapes = (jax.ShapeDtypeStruct((32, 8), jnp.float32), jax.ShapeDtypeStruct((4096, 8), "f4"))
    memory = jax.jit(search).lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * 32 * 4096 / 4


def test_tiles_divide_the_keys():
    with pytest.raises(ValueError, match="10 keys in tiles of 4"):
        update_top_k(nothing_found(1, 1), np.ones((1, 2)), np.ones((10, 2)), 0, 10, tile=4)
