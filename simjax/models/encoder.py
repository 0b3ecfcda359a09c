"""One transformer encoder for BERT, RoBERTa and XLM-R: post-norm layers, stacked and scanned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt32

from simjax.errors import UsageError
from simjax.models import dropout as drop
from simjax.models.attention import attend, same_text
from simjax.models.dense import Dense, LayerNorm, gelu
from simjax.types import Params

Family = Literal["bert", "roberta", "xlm-roberta"]
Activation = Literal["gelu", "gelu_new", "relu", "silu"]

# Every random site has a number of its own within a layer; layer 0 is the embeddings.
_SITES_PER_LAYER = 4
_ATTENTION, _ATTENTION_OUTPUT, _OUTPUT = range(3)


@dataclass(frozen=True)
class EncoderConfig:
    """The shape of one encoder."""

    family: Family = "bert"
    """Whose conventions: tensor names, and where positions start."""
    vocab_size: int = 30522
    """Rows of the token table. A random encoder takes its tokenizer's."""
    hidden_size: int = 256
    num_layers: int = 4
    num_heads: int = 4
    intermediate_size: int = 1024
    max_positions: int = 512
    """Longest text in tokens. RoBERTa's table has `pad_token_id + 1` more rows, hidden here."""
    type_vocab_size: int = 2
    activation: Activation = "gelu"
    """`gelu` is the exact one, `gelu_new` its tanh approximation."""
    layer_norm_eps: float = 1e-12
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_range: float = 0.02
    """Standard deviation of random kernels and tables."""
    pad_token_id: int = 0
    unroll: int = 1
    """Layers per iteration of the scan: more compile time for a little speed."""

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "num_layers",
            "num_heads",
            "intermediate_size",
            "max_positions",
            "type_vocab_size",
            "unroll",
        ):
            if getattr(self, name) < 1:
                raise UsageError(f"encoder.{name} must be at least 1, not {getattr(self, name)}")
        if self.hidden_size % self.num_heads:
            raise UsageError(
                f"encoder.hidden_size {self.hidden_size} is no multiple of "
                f"encoder.num_heads {self.num_heads}"
            )
        if self.family not in get_args(Family):
            raise UsageError(f"encoder.family {self.family!r}: choose from {get_args(Family)}")
        if self.activation not in get_args(Activation):
            choices = get_args(Activation)
            raise UsageError(f"encoder.activation {self.activation!r}: choose from {choices}")
        for rate in (self.hidden_dropout, self.attention_dropout):
            drop.dropped_levels(rate)

    @property
    def position_offset(self) -> int:
        """Row of the position table that the first token of a text reads."""
        return 0 if self.family == "bert" else self.pad_token_id + 1


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class Table(nnx.Module):
    """Rows that are looked up by number."""

    def __init__(self, rows: int, features: int, *, stddev: float, rngs: nnx.Rngs) -> None:
        normal = jax.random.normal(rngs.params(), (rows, features), jnp.float32)
        self.embedding = nnx.Param(stddev * normal)

    def __call__(self, index: Int[Array, "*B"]) -> Float[Array, "*B D"]:
        """The rows, in float32."""
        return jnp.take(self.embedding[...], index, axis=0, mode="clip")


class Embeddings(nnx.Module):
    """Token + position + token type 0, normalised."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        width, stddev = config.hidden_size, config.initializer_range
        self.word = Table(config.vocab_size, width, stddev=stddev, rngs=rngs)
        positions = config.max_positions + config.position_offset
        self.position = Table(positions, width, stddev=stddev, rngs=rngs)
        self.token_type = Table(config.type_vocab_size, width, stddev=stddev, rngs=rngs)
        self.norm = LayerNorm(width, epsilon=config.layer_norm_eps)
        self.position_offset = config.position_offset

    def __call__(
        self, tokens: Int[Array, "N L"], positions: Int[Array, "N L"], dtype: DTypeLike
    ) -> Float[Array, "N L D"]:
        """Embed tokens; every token has type 0."""
        x = self.word(tokens) + self.position(positions + self.position_offset)
        return self.norm(x + self.token_type.embedding[0], dtype)


def _sum(x: Float[Array, "N L D"], y: Float[Array, "N L D"]) -> Float[Array, "N L D"]:
    return x.astype(jnp.float32) + y.astype(jnp.float32)


class Layer(nnx.Module):
    """Attention and feed-forward, each with a residual path and a norm behind it."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        width, stddev = config.hidden_size, config.initializer_range
        self.qkv = Dense(width, 3 * width, stddev=stddev, rngs=rngs)
        self.attention_output = Dense(width, width, stddev=stddev, rngs=rngs)
        self.attention_norm = LayerNorm(width, epsilon=config.layer_norm_eps)
        self.intermediate = Dense(width, config.intermediate_size, stddev=stddev, rngs=rngs)
        self.output = Dense(config.intermediate_size, width, stddev=stddev, rngs=rngs)
        self.output_norm = LayerNorm(width, epsilon=config.layer_norm_eps)
        self.config = config

    def __call__(
        self,
        x: Float[Array, "N L D"],
        bias: Float[Array, "N L L"],
        keys: UInt32[Array, "N 2"] | None,
        layer: Int[Array, ""],
    ) -> Float[Array, "N L D"]:
        """One layer; `layer` counts from 1 and with `keys` decides the dropout masks."""
        config, site = self.config, layer * _SITES_PER_LAYER
        rate = config.attention_dropout
        attention_keys = keys if rate > 0.0 else None
        context = attend(
            self.qkv(x), bias, attention_keys, site + _ATTENTION, config.num_heads, rate
        )
        attended = drop.dropout(
            self.attention_output(context), keys, site + _ATTENTION_OUTPUT, config.hidden_dropout
        )
        x = self.attention_norm(_sum(x, attended), x.dtype)
        inner = _ACTIVATIONS[config.activation](self.intermediate(x))
        outer = drop.dropout(self.output(inner), keys, site + _OUTPUT, config.hidden_dropout)
        return self.output_norm(_sum(x, outer), x.dtype)


class Encoder(nnx.Module):
    """Embeddings and `num_layers` layers whose parameters are stacked on a leading axis."""

    def __init__(
        self, config: EncoderConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        self.embeddings = Embeddings(config, rngs=rngs)
        self.layers = nnx.vmap(lambda rngs: Layer(config, rngs=rngs))(
            nnx.Rngs(params=jax.random.split(rngs.params(), config.num_layers))
        )
        self.config = config
        self.dtype = jnp.dtype(dtype)

    def __call__(
        self,
        tokens: Int[Array, "N L"],
        positions: Int[Array, "N L"],
        text: Int[Array, "N L"],
        *,
        keys: UInt32[Array, "N 2"] | None = None,
        gather_layer: Callable[[Params], Params] | None = None,
        with_first: bool = False,
    ) -> tuple[Float[Array, "N L D"], Float[Array, "N L D"] | None]:
        """Hidden states of the last layer and, if asked for, of the first.

        Args:
            tokens: Token ids.
            positions: Place of each token in its text, from 0.
            text: Tokens with equal numbers attend to each other.
            keys: Dropout key words of each row; None turns dropout off.
            gather_layer: Applied to one layer's parameters inside the scan.
            with_first: Also return the states behind the first layer.
        """
        config = self.config
        x = self.embeddings(tokens, positions, self.dtype)
        x = drop.dropout(x, keys, 0, config.hidden_dropout)
        bias = same_text(text)
        graphdef, state = nnx.split(self.layers)
        stacked = nnx.to_pure_dict(state)

        def body(x: Array, scanned: tuple[Params, Array]) -> tuple[Array, None]:
            params, layer = scanned
            if gather_layer is not None:
                params = gather_layer(params)
            return nnx.merge(graphdef, params)(x, bias, keys, layer), None

        def run(x: Array, start: int, stop: int) -> Array:
            if start == stop:
                return x
            params = jax.tree.map(lambda leaf: leaf[start:stop], stacked)
            layers = jnp.arange(start + 1, stop + 1)
            return jax.lax.scan(body, x, (params, layers), unroll=config.unroll)[0]

        if not with_first:
            return run(x, 0, config.num_layers), None
        first = run(x, 0, 1)
        return run(first, 1, config.num_layers), first
