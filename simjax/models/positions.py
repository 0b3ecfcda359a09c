"""What tells attention where tokens stand: turned queries and keys, and scores by distance."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int

BUCKETS = 32
"""Distances that are told apart."""
# Those from here on are one.
_FARTHEST = 128


def rotation(
    positions: Int[Array, "N L"], features: int, base: float
) -> tuple[Float[Array, "N L 1 c"], Float[Array, "N L 1 c"]]:
    """Cosine and sine of the angles `position / base^(2 i / C)`, i from 0 to C / 2 - 1.

    Rotary positions (Su et al., arXiv 2104.09864).

    Args:
        positions: Place of each token in its text.
        features: `C`, of a head.
        base: 10,000 in the paper.
    """
    frequencies = base ** -(np.arange(0, features, 2, dtype=np.float64) / features)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies.astype(np.float32)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    x: Float[Array, "N L D"],
    angles: tuple[Float[Array, "N L 1 c"], Float[Array, "N L 1 c"]],
    num_heads: int,
) -> Float[Array, "N L D"]:
    """Turn features i and i + C / 2 of every head by the i-th angle, in float32."""
    cosine, sine = angles
    heads = rearrange(x, "n l (h c) -> n l h c", h=num_heads).astype(jnp.float32)
    near, far = jnp.split(heads, 2, axis=-1)
    turned = jnp.concatenate([near * cosine - far * sine, far * cosine + near * sine], axis=-1)
    return rearrange(turned, "n l h c -> n l (h c)").astype(x.dtype)


def distance_buckets(length: int) -> Int[np.ndarray, "K Q"]:
    """The number of each pair's distance among those that are told apart (T5 and MPNet).

    Half of them are for keys behind the query and half for keys before it. Of each half, half are
    distances of their own, from 0; the others grow with the logarithm, up to 128 (Raffel et al.,
    arXiv 1910.10683).

    Args:
        length: Tokens of a row; a text's tokens stand side by side in it.
    """
    # Column minus column is position minus position wherever both are of one text.
    ahead = np.arange(length)[:, None] - np.arange(length)[None, :]
    half, exact = BUCKETS // 2, BUCKETS // 4
    distance = np.abs(ahead)
    # float32 as in the models' own code: at the edges of buckets rounding decides.
    growth = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    steps = growth / np.float32(math.log(_FARTHEST / exact)) * np.float32(half - exact)
    far = np.minimum(exact + steps.astype(np.int64), half - 1)
    return np.where(distance < exact, distance, far) + np.where(ahead > 0, half, 0)
