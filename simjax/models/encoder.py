"""One transformer encoder for all families: layers that are stacked and scanned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt32

from simjax.models import dropout as drop
from simjax.models.attention import Heads, attend, attend_in_blocks
from simjax.models.config import EncoderConfig as EncoderConfig
from simjax.models.dense import PRODUCT, Dense, LayerNorm, gelu
from simjax.models.embeddings import Embeddings, Table
from simjax.models.families import Site
from simjax.models.positions import BUCKETS, rotate
from simjax.models.sight import Sight, look
from simjax.types import Params

# Every random site has a number of its own within a layer; layer 0 is the embeddings.
_SITES_PER_LAYER = 4
_ATTENTION, _ATTENTION_OUTPUT, _OUTPUT, _INNER = range(4)

_BLOCK = 256
"""Queries at a time in long rows."""

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


Remat: TypeAlias = Literal["layer", "products"]
"""What the backward pass computes anew: a layer from its input, or all of it but the outputs of its
dense layers."""

_POLICIES: dict[Remat, Any] = {
    "layer": None,
    "products": jax.checkpoint_policies.save_only_these_names(PRODUCT),
}


class Before(NamedTuple):
    """What states go through before each of some layers.

    Attributes:
        change: States, and what is given to the layer, to states and what is to be known of them.
        given: For each layer, stacked.
    """

    change: Callable[[Array, Any], tuple[Array, Any]]
    given: Any


class Run(Protocol):
    """Runs states through the layers from one to another, counted from 0, the last excluded."""

    def __call__(
        self,
        x: Float[Array, "N L D"],
        sight: Sight,
        start: int,
        stop: int,
        before: Before | None = None,
    ) -> tuple[Float[Array, "N L D"], Any]:
        """The states, and what `before` has found, stacked."""


def tensor_axis(path: tuple[Any, ...], leaf: Any) -> int | None:
    """The dimension of a parameter that devices share out among them, or None.

    Each gets whole heads and some of the inner features (Shoeybi et al. 2019, arXiv 1909.08053):
    the outputs of `qkv` and `intermediate`, and the rows of what takes them in.
    """
    kind, name = (getattr(key, "key", None) for key in path[-2:]) if len(path) > 1 else ("", "")
    if kind in ("qkv", "intermediate") and name in ("kernel", "bias"):
        return leaf.ndim - 1
    if kind in ("attention_output", "output") and name == "kernel":
        return leaf.ndim - 2
    return 1 if kind == "relative" and leaf.ndim == 2 else None


def _sum(x: Float[Array, "N L D"], y: Float[Array, "N L D"]) -> Float[Array, "N L D"]:
    return x.astype(jnp.float32) + y.astype(jnp.float32)


class Layer(nnx.Module):
    """Attention and feed-forward, each with a residual path and a norm behind or before it."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        width, inner, own = config.hidden_size, config.intermediate_size, config.architecture

        def dense(features_in: int, features_out: int, parts: int = 1) -> Dense:
            return Dense(
                features_in,
                features_out,
                stddev=config.initializer_range,
                rngs=rngs,
                use_bias=own.bias,
                parts=parts,
            )

        def norm() -> LayerNorm:
            return LayerNorm(width, epsilon=config.layer_norm_eps, use_bias=own.norm_bias)

        self.qkv = dense(width, 3 * width, parts=3)
        self.attention_output = dense(width, width)
        self.attention_norm = norm()
        self.intermediate = dense(width, config.kernels_in, parts=2 if own.gated else 1)
        self.output = dense(inner, width)
        self.output_norm = norm()
        self.config = config

    def __call__(
        self,
        x: Float[Array, "N L D"],
        sight: Sight,
        keys: UInt32[Array, "N 2"] | None,
        layer: Int[Array, ""],
        dtype: DTypeLike,
    ) -> Float[Array, "N L D"]:
        """One layer; `layer` counts from 1 and with `keys` decides the dropout masks."""
        return self._around(lambda x: self._attend(x, sight, keys, layer), x, keys, layer, dtype)

    def extend(
        self,
        x: Float[Array, "N Q D"],
        past: tuple[Float[Array, "N K D"], Float[Array, "N K D"]],
        place: Int[Array, ""] | int,
        sight: Sight,
        layer: Int[Array, ""],
        dtype: DTypeLike,
    ) -> tuple[Float[Array, "N Q D"], tuple[Float[Array, "N K D"], Float[Array, "N K D"]]]:
        """The layer of further tokens, with their keys and values put beside those of earlier ones.

        Args:
            x: States of the further tokens.
            past: Keys and values of all places, of which some are still empty.
            place: Where the further tokens' go.
            sight: The bias of all places, and the angles of the further tokens.
            layer: As of `__call__`.
            dtype: As of `__call__`.
        """
        grown = past

        def attended(x: Array) -> Array:
            nonlocal grown
            q, *new = self.project(x, sight, layer)
            keys, values = (
                jax.lax.dynamic_update_slice_in_dim(old, own, place, axis=1)
                for old, own in zip(past, new, strict=True)
            )
            grown, assured = (keys, values), sight.bias
            assert assured is not None  # rows are short
            heads = Heads(self.config.num_heads, 0.0, self.config.num_heads)
            return self.attention_output(attend(q, keys, values, assured, None, None, heads))

        return self._around(attended, x, None, layer, dtype), grown

    def _around(
        self,
        attended: Callable[[Array], Array],
        x: Array,
        keys: Array | None,
        layer: Array,
        dtype: DTypeLike,
    ) -> Float[Array, "N L D"]:
        if self.config.architecture.norm == "after":
            x = self.attention_norm(_sum(x, attended(x)), dtype)
            return self.output_norm(_sum(x, self._feed_forward(x, keys, layer)), dtype)
        # The residual path stays in float32: nothing rounds it but what is added to it.
        normal = jnp.where(layer == 1, x.astype(dtype), self.attention_norm(x, dtype))
        x = _sum(x, attended(normal))
        return _sum(x, self._feed_forward(self.output_norm(x, dtype), keys, layer))

    def _drop(
        self,
        x: Array,
        keys: Array | None,
        layer: Array,
        number: int,
        site: Site,
        features: int | None = None,
    ) -> Float[Array, "N L D"]:
        config = self.config
        kind = config.architecture.dropped.get(site)
        if kind is None:
            return x
        rate = config.hidden_dropout if kind == "hidden" else config.attention_dropout
        return drop.dropout(x, keys, layer * _SITES_PER_LAYER + number, rate, features)

    def _heads(self, q: Array) -> int:
        """All heads, or this device's part of them."""
        return q.shape[-1] * self.config.num_heads // self.config.hidden_size

    def _is_local(self, layer: Array) -> Array:
        return (layer - 1) % self.config.global_every != 0

    def project(
        self, x: Float[Array, "N L D"], sight: Sight, layer: Int[Array, ""]
    ) -> tuple[Float[Array, "N L D"], Float[Array, "N L D"], Float[Array, "N L D"]]:
        """Queries, keys and values, turned by their places where the family does that."""
        q, k, v = jnp.split(self.qkv(x), 3, axis=-1)
        if sight.angles is not None:
            angles, heads = sight.angles, self._heads(q)
            if sight.window_angles is not None:
                local = self._is_local(layer)
                pairs = zip(sight.window_angles, sight.angles, strict=True)
                angles = tuple(jnp.where(local, near, far) for near, far in pairs)
            q, k = rotate(q, angles, heads), rotate(k, angles, heads)
        return q, k, v

    def _attend(
        self, x: Array, sight: Sight, keys: Array | None, layer: Array
    ) -> Float[Array, "N L D"]:
        config = self.config
        q, k, v = self.project(x, sight, layer)
        heads, local = self._heads(q), self._is_local(layer)
        rate = config.attention_dropout
        site = layer * _SITES_PER_LAYER + _ATTENTION
        mask = (keys, site) if keys is not None and rate > 0.0 else None
        if sight.bias is not None:
            bias = sight.bias
            if sight.window_bias is not None:
                bias = jnp.where(local, sight.window_bias, bias)
            own = Heads(heads, rate, config.num_heads)
            context = attend(q, k, v, bias, sight.relative, mask, own)
        else:
            context = self._attend_far(q, k, v, sight, mask, local, heads)
        attended = self.attention_output(context)
        return self._drop(attended, keys, layer, _ATTENTION_OUTPUT, "attention_output")

    def _attend_far(
        self, q: Array, k: Array, v: Array, sight: Sight, mask: Any, local: Array, heads: int
    ) -> Float[Array, "N L D"]:
        config = self.config

        def within(window: int | None) -> Callable[..., Array]:
            def run(q: Array, k: Array, v: Array) -> Array:
                own = Heads(heads, config.attention_dropout, config.num_heads)
                return attend_in_blocks(
                    *(q, k, v, sight.text, mask, own),
                    block=_BLOCK,
                    window=window,
                    segment=sight.segment,
                )

            return run

        if not config.architecture.windowed:
            return within(None)(q, k, v)
        return jax.lax.cond(local, within(config.window // 2), within(None), q, k, v)

    def _feed_forward(self, x: Array, keys: Array | None, layer: Array) -> Float[Array, "N L D"]:
        config = self.config
        activation, inner = ACTIVATIONS[config.activation], self.intermediate(x)
        if config.architecture.gated:
            inner, gate = jnp.split(inner, 2, axis=-1)
            inner = activation(inner) * gate
        else:
            inner = activation(inner)
        inner = self._drop(inner, keys, layer, _INNER, "inner", config.intermediate_size)
        return self._drop(self.output(inner), keys, layer, _OUTPUT, "output")


class Encoder(nnx.Module):
    """Embeddings and `num_layers` layers whose parameters are stacked on a leading axis."""

    def __init__(
        self, config: EncoderConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        own = config.architecture
        self.embeddings = Embeddings(config, rngs=rngs)
        self.layers = nnx.vmap(lambda rngs: Layer(config, rngs=rngs))(
            nnx.Rngs(params=jax.random.split(rngs.params(), config.stacked_layers))
        )
        if own.relative:
            stddev = config.initializer_range
            self.relative = Table(BUCKETS, config.num_heads, stddev=stddev, rngs=rngs)
        if own.norm == "before":
            self.norm = LayerNorm(
                config.hidden_size, epsilon=config.layer_norm_eps, use_bias=own.norm_bias
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
        change: Callable[[Float[Array, "N L D"]], Float[Array, "N L D"]] | None = None,
        gather_layer: Callable[[Params], Params] | None = None,
        also: int | None = None,
        remat: Remat | None = None,
        segment: Int[Array, "N L"] | None = None,
    ) -> tuple[Float[Array, "N L D"], Float[Array, "N L D"] | None]:
        """Hidden states behind the last layer and, if asked for, behind another one.

        Args:
            tokens: Token ids.
            positions: Place of each token in its text, from 0.
            text: Tokens with equal numbers attend to each other; they stand side by side.
            keys: Dropout key words of each row; None turns dropout off.
            change: Applied to the embeddings before the first layer.
            gather_layer: Applied to one layer's parameters inside the scan.
            also: Number of a layer, from 1, whose states are returned as well.
            remat: What of a layer the backward pass computes anew; None keeps everything.
            segment: As of `Block.segment`.
        """
        config, own = self.config, self.config.architecture
        x = self.embeddings(tokens, positions, keys, self.dtype, segment)
        if change is not None:
            x = change(x)
        relative = self.relative.embedding[...] if own.relative else None
        sight = look(config, text, positions, relative, segment)
        if own.norm == "before":
            x = x.astype(jnp.float32)
        run = self.runner(keys, gather_layer, remat)

        def finished(x: Array) -> Array:
            return self.norm(x, self.dtype) if own.norm == "before" else x

        if also is None:
            return finished(run(x, sight, 0, config.num_layers)[0]), None
        # transformers, too, lists the states of all layers but the last before the final norm.
        middle, _ = run(x, sight, 0, also)
        last = finished(run(middle, sight, also, config.num_layers)[0])
        return last, last if also == config.num_layers else middle

    def runner(
        self,
        keys: UInt32[Array, "N 2"] | None = None,
        gather_layer: Callable[[Params], Params] | None = None,
        remat: Remat | None = None,
    ) -> Run:
        """What runs states through some of the layers; arguments are those of `__call__`."""
        config, own = self.config, self.config.architecture
        graphdef, state = nnx.split(self.layers)
        stacked = nnx.to_pure_dict(state)

        def run(
            x: Array, sight: Sight, start: int, stop: int, before: Before | None = None
        ) -> tuple[Array, Any]:
            if start == stop:
                return x, None

            def body(x: Array, scanned: tuple[Params, Array, Any]) -> tuple[Array, Any]:
                params, layer, given = scanned
                found = None
                if before is not None:
                    x, found = before.change(x, given)
                if own.shared:
                    params = jax.tree.map(lambda leaf: leaf[0], stacked)
                if gather_layer is not None:
                    params = gather_layer(params)
                return nnx.merge(graphdef, params)(x, sight, keys, layer, self.dtype), found

            if remat is not None:
                body = jax.checkpoint(body, policy=_POLICIES[remat], prevent_cse=False)
            layers = jnp.arange(start + 1, stop + 1)
            own_params = None if own.shared else jax.tree.map(lambda p: p[start:stop], stacked)
            given = None if before is None else before.given
            return jax.lax.scan(body, x, (own_params, layers, given), unroll=config.unroll)

        return run
