"""Who sees whom in a row of tokens, and where these stand: what attention is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simjax.models.attention import may_see
from simjax.models.config import EncoderConfig
from simjax.models.positions import distance_buckets, rotation

LONG_ROW = 1024
"""In rows longer than this, scores are made for some queries at a time."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sight:
    """Who sees whom in a row, and where tokens stand; the same for all layers of a kind."""

    text: Int[Array, "N L"]
    bias: Float[Array, "N L L"] | None
    """None for long rows, which make it by the block."""
    window_bias: Float[Array, "N L L"] | None
    """That of local layers; None where they see as much as others."""
    angles: Any = None
    window_angles: Any = None
    relative: Float[Array, "H L L"] | None = None
    segment: Int[Array, "N L"] | None = None


def look(
    config: EncoderConfig,
    text: Int[Array, "N L"],
    positions: Int[Array, "N L"],
    relative: Float[Array, "buckets H"] | None,
    segment: Int[Array, "N L"] | None = None,
) -> Sight:
    """What attention needs to know of a block of rows."""
    length, own = text.shape[1], config.architecture
    places = jnp.arange(length)
    distance = places[:, None] - places[None, :]
    long = length > LONG_ROW and not own.relative
    both = None if segment is None else (segment, segment)
    bias = None if long else may_see(text, text, distance, None, both)
    window_bias = None
    if own.windowed and not long and length > config.window // 2 + 1:
        window_bias = may_see(text, text, distance, config.window // 2, both)
    angles = window_angles = None
    if own.positions == "rotary":
        features = config.hidden_size // config.num_heads
        angles = rotation(positions, features, config.rotary_base or own.rotary_base)
        if own.windowed:
            window_angles = rotation(positions, features, config.window_rotary_base)
    by_distance = None
    if relative is not None:
        by_distance = jnp.moveaxis(relative[distance_buckets(length)], -1, 0)
    return Sight(text, bias, window_bias, angles, window_angles, by_distance, segment)
