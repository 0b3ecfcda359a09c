"""Embeddings in fewer bits: a byte for a dimension, or one bit.

The codes are those of sentence-transformers' `quantize_embeddings` (`int8` and `ubinary`).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, Int8, UInt8, UInt32

LEVELS = 255


def calibrate(sample: Float[np.ndarray, "N D"]) -> Float32[np.ndarray, "2 D"]:
    """Least and largest value of each dimension."""
    return np.stack([sample.min(axis=0), sample.max(axis=0)]).astype(np.float32)


def _steps(ranges: Float32[np.ndarray, "2 D"]) -> Float32[np.ndarray, "D"]:
    steps = (ranges[1] - ranges[0]) / LEVELS
    return np.where(steps == 0, 1, steps)


def to_int8(
    embeddings: Float[np.ndarray, "N D"], ranges: Float32[np.ndarray, "2 D"]
) -> Int8[np.ndarray, "N D"]:
    """Cut each dimension's range into 255 equal steps, counted from -128.

    Args:
        embeddings: What lies beyond the range is taken to its end.
        ranges: From `calibrate`.
    """
    codes = np.clip(np.floor((embeddings - ranges[0]) / _steps(ranges)), 0, LEVELS)
    return (codes - 128).astype(np.int8)


def from_int8(
    codes: Int8[np.ndarray, "N D"], ranges: Float32[np.ndarray, "2 D"]
) -> Float32[np.ndarray, "N D"]:
    """The middle of each code's step."""
    return (codes.astype(np.float32) + 128.5) * _steps(ranges) + ranges[0]


def int8_queries(
    queries: Float32[np.ndarray, "Q D"], ranges: Float32[np.ndarray, "2 D"]
) -> tuple[Float32[np.ndarray, "Q D"], Float32[np.ndarray, "Q"]]:
    """Weights w and constants c with ``q . from_int8(codes) = w . codes + c``.

    The queries stay floats: only the keys are rounded.
    """
    steps = _steps(ranges)
    return queries * steps, queries @ (ranges[0] + 128.5 * steps)


def to_bits(embeddings: Float[np.ndarray, "N D"]) -> UInt8[np.ndarray, "N W"]:
    """Whether each dimension is positive, eight to a byte, the first highest; W = ceil(D / 8)."""
    return np.packbits(embeddings > 0, axis=-1)


def to_words(bits: UInt8[np.ndarray, "N W"]) -> UInt32[np.ndarray, "N V"]:
    """The same bytes four at a time, with zeros at the end: V = ceil(W / 4)."""
    padded = np.zeros((len(bits), -(-bits.shape[1] // 4) * 4), np.uint8)
    padded[:, : bits.shape[1]] = bits
    return padded.view(np.uint32)


def signs(words: UInt32[np.ndarray, "*N V"], width: int) -> Float32[np.ndarray, "*N D"]:
    """1 for a positive dimension and -1 for another."""
    bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=-1, count=width)
    return bits.astype(np.float32) * 2 - 1
