"""A pseudo-random permutation whose entries are computed on their own, whole batches at a time.

A balanced Feistel network permutes the numbers of an even number of bits; entries that fall
outside the range are sent through again until they fall inside (cycle walking: Black & Rogaway
2002). Nothing is stored, entry `i` costs the same wherever it lies, and the result is the same
with every version of NumPy. `grain.experimental.index_shuffle` does the same for one index per
call, which takes longer than planning and packing a batch do.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

ROUNDS = 8


def permute(
    indices: Int[np.ndarray, "n"], size: int, seed: tuple[int, ...]
) -> Int[np.ndarray, "n"]:
    """Entries `indices` of a pseudo-random permutation of `range(size)`.

    Args:
        indices: each in `range(size)`.
        size: how many numbers are permuted.
        seed: non-negative integers that choose the permutation.

    Raises:
        ValueError: an index is out of range.
    """
    values = np.asarray(indices, np.uint64)
    if len(values) and not int(values.max()) < size:
        raise ValueError(f"index {values.max()} of a permutation of {size}")
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    keys = np.random.SeedSequence(seed).generate_state(ROUNDS, np.uint64)
    values = _feistel(values, half, keys)
    outside = np.flatnonzero(values >= size)
    while len(outside):
        values[outside] = _feistel(values[outside], half, keys)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (mix(right + key) & mask)
    return left << half | right


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014): every input bit moves every output bit."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)
