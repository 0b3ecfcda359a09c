"""Tokens one after the other: keys and values of those before are kept, and not made again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from simjax.models.attention import MASKED
from simjax.models.config import EncoderConfig
from simjax.models.encoder import Encoder
from simjax.models.positions import rotation
from simjax.models.sight import Sight
from simjax.types import Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys and values of `K` places of `N` texts in each of `S` layers; zeros where it is empty."""

    keys: Float[Array, "S N K D"]
    values: Float[Array, "S N K D"]

    @classmethod
    def empty(cls, config: EncoderConfig, texts: int, places: int, dtype: DTypeLike) -> Cache:
        """Room for so many texts and places."""
        shape = (config.num_layers, texts, places, config.hidden_size)
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def repeated(self, times: int) -> Cache:
        """Every text so many times, one copy after the other."""
        return jax.tree.map(lambda x: jnp.repeat(x, times, axis=1), self)

    def with_states(
        self, encoder: Encoder, states: Float[Array, "L N D"], positions: Int[Array, "N 1"]
    ) -> Cache:
        """The same with keys and values of what enters the last `L` layers in the first place."""
        config, count = encoder.config, states.shape[0]
        graphdef, state = nnx.split(encoder.layers)
        stacked = nnx.to_pure_dict(state)
        sight = Sight(positions, None, None, _angles(config, positions))

        def one(params: Params, layer: Array, states: Array) -> tuple[Array, Array]:
            _, keys, values = nnx.merge(graphdef, params).project(states[:, None], sight, layer)
            return keys, values

        first = config.num_layers - count
        layers = jnp.arange(first + 1, config.num_layers + 1)
        shared = config.architecture.shared
        params = jax.tree.map(lambda p: p[0] if shared else p[first:], stacked)
        found = jax.vmap(one, in_axes=(None if shared else 0, 0, 0))(params, layers, states)
        keys, values = (
            jax.lax.dynamic_update_slice(old, new.astype(old.dtype), (first, 0, 0, 0))
            for old, new in zip((self.keys, self.values), found, strict=True)
        )
        return Cache(keys, values)


def _angles(config: EncoderConfig, positions: Int[Array, "N Q"]) -> Any:
    if config.architecture.positions != "rotary":
        return None
    features = config.hidden_size // config.num_heads
    return rotation(positions, features, config.rotary_base or config.architecture.rotary_base)


def extend(
    encoder: Encoder,
    tokens: Int[Array, "N Q"],
    positions: Int[Array, "N Q"],
    segment: Int[Array, "N Q"],
    cache: Cache,
    place: Int[Array, ""] | int,
    seen: Bool[Array, "*S N K Q"],
) -> tuple[Float[Array, "N Q D"], Cache]:
    """Hidden states behind the last layer of further tokens, and the cache with these in it.

    Args:
        encoder: Of a family that sees whole texts, and tells places by a table or by angles.
        tokens: The further tokens.
        positions: Places in their texts.
        segment: Their segments.
        cache: Of all tokens before.
        place: Where in the cache the further ones go.
        seen: Which places of the cache each of them sees, itself among them; in all layers, or in
            each of the `S`.
    """
    config, own = encoder.config, encoder.config.architecture
    assert not own.windowed and not own.relative  # which have no token types
    x = encoder.embeddings(tokens, positions, None, encoder.dtype, segment)
    angles = _angles(config, positions)
    bias = jnp.where(seen, 0.0, MASKED).astype(jnp.float32)
    bias = jnp.broadcast_to(bias, (config.num_layers, *bias.shape[-3:]))
    graphdef, state = nnx.split(encoder.layers)
    stacked = nnx.to_pure_dict(state)

    def body(
        x: Array, scanned: tuple[Params, Array, Array, tuple[Array, Array]]
    ) -> tuple[Array, tuple[Array, Array]]:
        params, layer, own_bias, past = scanned
        sight = Sight(tokens, own_bias, None, angles)
        if own.shared:
            params = jax.tree.map(lambda leaf: leaf[0], stacked)
        return nnx.merge(graphdef, params).extend(x, past, place, sight, layer, encoder.dtype)

    layers = jnp.arange(1, config.num_layers + 1)
    own_params = None if own.shared else stacked
    x, grown = jax.lax.scan(body, x, (own_params, layers, bias, (cache.keys, cache.values)))
    return x, Cache(*grown)
