"""What tokens enter the layers as: rows of tables, added up and normalised."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt32

from simjax.models import dropout as drop
from simjax.models.config import EncoderConfig
from simjax.models.dense import Dense, LayerNorm


class Table(nnx.Module):
    """Rows that are looked up by number."""

    def __init__(self, rows: int, features: int, *, stddev: float, rngs: nnx.Rngs) -> None:
        normal = jax.random.normal(rngs.params(), (rows, features), jnp.float32)
        self.embedding = nnx.Param(stddev * normal)

    def __call__(self, index: Int[Array, "*B"]) -> Float[Array, "*B D"]:
        """The rows, in float32."""
        return jnp.take(self.embedding[...], index, axis=0, mode="clip")


class Embeddings(nnx.Module):
    """Token + position + token type, as far as the family has them, normalised."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        own, width, stddev = config.architecture, config.embedding_width, config.initializer_range
        self.word = Table(config.vocab_size, width, stddev=stddev, rngs=rngs)
        if own.positions == "table":
            positions = config.max_positions + config.position_offset
            self.position = Table(positions, width, stddev=stddev, rngs=rngs)
        if own.token_types:
            self.token_type = Table(config.type_vocab_size, width, stddev=stddev, rngs=rngs)
        self.norm = LayerNorm(width, epsilon=config.layer_norm_eps, use_bias=own.norm_bias)
        if config.projected:
            self.projection = Dense(width, config.hidden_size, stddev=stddev, rngs=rngs)
        self.config = config

    def __call__(
        self,
        tokens: Int[Array, "N L"],
        positions: Int[Array, "N L"],
        keys: UInt32[Array, "N 2"] | None,
        dtype: DTypeLike,
        segment: Int[Array, "N L"] | None = None,
    ) -> Float[Array, "N L D"]:
        """Embed tokens, whose type is their segment."""
        x, own = self.word(tokens), self.config.architecture
        if own.positions == "table":
            x = x + self.position(positions + self.config.position_offset)
        if own.token_types:
            kind = self.token_type.embedding[0] if segment is None else self.token_type(segment)
            x = x + kind
        x = drop.dropout(self.norm(x, dtype), keys, 0, self.config.hidden_dropout)
        return self.projection(x) if self.config.projected else x
