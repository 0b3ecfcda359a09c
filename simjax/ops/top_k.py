"""The k best keys of each query, exactly, without ever holding all scores.

Scores are made a tile of keys at a time and merged into the best so far; memory is
O(Q (tile + k)). Keys may be larger than the device: they come in parts, in the order of their
numbers, and what was found so far goes into the next call. Ties go to the lower number, since
`jax.lax.top_k` prefers the earlier of equal entries and the best so far stand first.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int, Int32, UInt32

NO_KEY = -1
"""Number in a place that no key has taken; its score is -inf."""

Similarity: TypeAlias = Literal["dot", "bits"]
"""`dot`: inner product. `bits`: minus the Hamming distance of packed bits."""


class Found(NamedTuple):
    """The best keys so far, best first."""

    scores: Float32[Array, "Q k"]
    keys: Int32[Array, "Q k"]


def nothing_found(queries: int, k: int) -> Found:
    """What there is before any key."""
    return Found(
        jnp.full((queries, k), -jnp.inf, jnp.float32), jnp.full((queries, k), NO_KEY, jnp.int32)
    )


def score_pairs(
    queries: Array, keys: Array, similarity: Similarity = "dot"
) -> Float32[Array, "Q N"]:
    """Similarity of each query with each key.

    Args:
        queries: Float32 [Q, D], or for `bits` 32 bits in each uint32, [Q, D / 32].
        keys: Float32 or int8 [N, D], or for `bits` as the queries.
        similarity: Which.
    """
    if similarity == "bits":
        return -_hamming(queries, keys)
    return jax.lax.dot_general(
        queries,
        keys.astype(queries.dtype),
        (((1,), (1,)), ((), ())),
        # Without this, TPUs take bfloat16 and GPUs may take tf32.
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def _hamming(queries: UInt32[Array, "Q W"], keys: UInt32[Array, "N W"]) -> Float32[Array, "Q N"]:
    differing = jax.lax.population_count(queries[:, None, :] ^ keys[None, :, :])
    return jnp.sum(differing.astype(jnp.int32), axis=-1).astype(jnp.float32)


def update_top_k(
    found: Found,
    queries: Array,
    keys: Array,
    first: Int[Array, ""],
    count: Int[Array, ""],
    *,
    tile: int,
    similarity: Similarity = "dot",
) -> Found:
    """The best keys of those found before and of a part of the keys that come after them.

    Args:
        found: The best so far; its k is the k.
        queries: See `score_pairs`.
        keys: See there; their number is a multiple of `tile`.
        first: Number of the first of these keys.
        count: How many of them there are; the rest is padding.
        tile: Keys whose scores are held at a time.
        similarity: See `score_pairs`.

    Returns:
        Scores that are NaN count as the best: make sure that there are none.

    Raises:
        ValueError: `tile` does not divide the keys.
    """
    if keys.shape[0] % tile:
        raise ValueError(f"{keys.shape[0]} keys in tiles of {tile}")
    k = found.scores.shape[1]
    tiles = keys.reshape(-1, tile, keys.shape[1])

    def step(best: Found, item: tuple[Array, Array]) -> tuple[Found, None]:
        number, part = item
        scores = score_pairs(queries, part, similarity)
        there = number * tile + jnp.arange(tile) < count
        scores, columns = jax.lax.top_k(jnp.where(there, scores, -jnp.inf), min(k, tile))
        numbers = jnp.where(
            jnp.isneginf(scores), NO_KEY, (first + number * tile + columns).astype(jnp.int32)
        )
        scores, places = jax.lax.top_k(jnp.concatenate([best.scores, scores], axis=1), k)
        numbers = jnp.concatenate([best.keys, numbers], axis=1)
        return Found(scores, jnp.take_along_axis(numbers, places, axis=1)), None

    return jax.lax.scan(step, found, (jnp.arange(tiles.shape[0]), tiles))[0]
