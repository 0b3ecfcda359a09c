"""Encoder and pooling together: blocks of packed texts in, one vector per text out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from simjax.errors import UsageError
from simjax.models import dropout as drop
from simjax.models.cutoff import Cutoff, cut
from simjax.models.encoder import Encoder, EncoderConfig, Remat
from simjax.models.heads import Head, HeadConfig, HeadWeights
from simjax.models.pooling import Pooling, pool, present
from simjax.types import NO_TEXT, Block, Params

GraphDef: TypeAlias = nnx.GraphDef


def pooler_head(pooling: Pooling, width: int) -> HeadConfig | None:
    """The dense layer that belongs to a pooling, if it has one."""
    if pooling == "cls_mlp":
        return HeadConfig(width, width, "tanh")
    return HeadConfig(width, width, "identity") if pooling == "cls_linear" else None


class SentenceModel(nnx.Module):
    """An encoder, a pooling and its head."""

    def __init__(
        self,
        config: EncoderConfig,
        pooling: Pooling,
        *,
        dtype: DTypeLike = jnp.float32,
        heads: Sequence[HeadConfig] = (),
        rngs: nnx.Rngs,
    ) -> None:
        """Make a random model.

        Args:
            config: Shape of the encoder.
            pooling: How a text's hidden states become one vector.
            dtype: Compute in float32 or bfloat16; parameters are float32.
            heads: Dense layers behind the pooling, applied always; a sentence-transformers
                folder may bring some.
            rngs: Supplies the stream `params`.

        Raises:
            UsageError: no such pooling, or one that asks for more layers than there are.
        """
        if pooling not in get_args(Pooling):
            raise UsageError(f"pooling {pooling!r}: choose from {', '.join(get_args(Pooling))}")
        if pooling == "top2_mean" and config.num_layers < 2:
            raise UsageError("pooling top2_mean needs an encoder of two layers or more")
        self.encoder = Encoder(config, dtype=dtype, rngs=rngs)
        self.config = config
        self.pooling = pooling
        self.dtype = jnp.dtype(dtype)
        width, stddev = config.hidden_size, config.initializer_range
        own = pooler_head(pooling, width)
        if own is not None:
            self.pooler = Head(own, stddev=stddev, rngs=rngs)
        for number, head in enumerate(heads):
            setattr(self, f"head_{number}", Head(head, stddev=stddev, rngs=rngs))
        self.num_heads = len(heads)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The dense layers behind the pooling."""
        return tuple(getattr(self, f"head_{number}") for number in range(self.num_heads))

    def append(self, layer: HeadWeights) -> None:
        """Put a dense layer behind those that there are.

        Raises:
            UsageError: It takes vectors of another width.
        """
        out_features, in_features = layer.weight.shape
        if in_features != self.embedding_size:
            raise UsageError(
                f"a dense layer takes {in_features} features, and embeddings have "
                f"{self.embedding_size}"
            )
        shape = HeadConfig(in_features, out_features, layer.activation, layer.bias is not None)
        head = Head(shape, stddev=0.0, rngs=nnx.Rngs(0))
        head.kernel = nnx.Param(jnp.asarray(layer.weight.T))
        if layer.bias is not None:
            head.bias = nnx.Param(jnp.asarray(layer.bias))
        setattr(self, f"head_{self.num_heads}", head)
        self.num_heads += 1

    @property
    def embedding_size(self) -> int:
        """Width of what comes out."""
        return self.heads[-1].kernel.shape[-1] if self.num_heads else self.config.hidden_size

    def head_weights(self, *, training_head: bool = True) -> list[HeadWeights]:
        """The dense layers that `__call__` applies, in order, as sentence-transformers has them.

        Args:
            training_head: False leaves out `cls_mlp`'s own, as in `__call__`.
        """
        own = pooler_head(self.pooling, self.config.hidden_size)
        dropped = own is None or (self.pooling == "cls_mlp" and not training_head)
        return [head.weights() for head in ((() if dropped else (self.pooler,)) + self.heads)]

    def __call__(
        self,
        block: Block,
        *,
        dropout_key: Key[Array, ""] | None = None,
        place: Int[Array, "K"] | None = None,
        gather_layer: Callable[[Params], Params] | None = None,
        training_head: bool = True,
        remat: Remat | None = None,
        mask_groups: int = 1,
        cutoffs: tuple[Cutoff, ...] = (),
        cutoff_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "*K T D"]:
        """Embed the texts of one block, or of `K` of them.

        Args:
            block: Packed texts, with at most one leading dimension.
            dropout_key: Key of the step's dropout; None turns dropout off.
            place: Place of each block in the global batch (0 to K - 1 if None); decides, with
                the row and the key, the dropout masks.
            gather_layer: Applied to one layer's parameters inside the scan over layers.
            training_head: False leaves out the head of `cls_mlp`, as SimCSE does after
                unsupervised training.
            remat: What of a layer the backward pass computes anew; None keeps everything.
            mask_groups: Groups of rows that share dropout masks, as of `dropout.row_keys`.
            cutoffs: What is cut of the embeddings.
            cutoff_key: Key of the step's cutoffs; None cuts nothing.

        Returns:
            float32 vectors, not normalised; zeros for a text that is absent. A text of two segments
            has the vector that its first segment has alone.
        """
        single = block.tokens.ndim == 2
        if single:
            block = jax.tree.map(lambda array: array[None], block)
        change = None
        if cutoffs and cutoff_key is not None:
            places = jnp.arange(block.first.shape[0]) if place is None else jnp.atleast_1d(place)
            change = partial(cut, cutoffs=cutoffs, block=block, place=places, key=cutoff_key)
        last, other = self._encode(
            block, dropout_key, place, gather_layer, remat, mask_groups=mask_groups, change=change
        )
        pooled = self._embed(last, other, block, training_head=training_head)
        return pooled[0] if single else pooled

    def with_states(
        self,
        block: Block,
        *,
        dropout_key: Key[Array, ""] | None = None,
        place: Int[Array, "K"] | None = None,
        gather_layer: Callable[[Params], Params] | None = None,
        remat: Remat | None = None,
    ) -> tuple[Float[Array, "K T D"], Float[Array, "K P D"]]:
        """`__call__` and `token_states` of `K` blocks, from one pass."""
        last, other = self._encode(block, dropout_key, place, gather_layer, remat)
        pooled = self._embed(last, other, block, training_head=True)
        return pooled, last.reshape(block.tokens.shape[0], -1, last.shape[-1])

    def _embed(
        self, last: Array, other: Array | None, block: Block, *, training_head: bool
    ) -> Float[Array, "K T D"]:
        pooled = self._pool(last, other, block, training_head=training_head)
        for head in self.heads:
            pooled = head(pooled)
        # A head's bias would make something of nothing.
        text, starts = jnp.asarray(block.text), jnp.asarray(block.first)
        there = jax.vmap(present)(text.reshape(text.shape[0], -1), starts)
        return jnp.where(there[..., None], pooled, 0.0)

    def token_states(
        self,
        block: Block,
        *,
        dropout_key: Key[Array, ""] | None = None,
        place: Int[Array, "K"] | None = None,
        gather_layer: Callable[[Params], Params] | None = None,
        remat: Remat | None = None,
    ) -> Float[Array, "K P D"]:
        """Hidden states behind the last layer, of all places of `K` blocks; see `__call__`."""
        last, _ = self._encode(block, dropout_key, place, gather_layer, remat)
        return last.reshape(block.tokens.shape[0], -1, last.shape[-1])

    def _encode(
        self,
        block: Block,
        dropout_key: Any,
        place: Any,
        gather_layer: Any,
        remat: Remat | None,
        *,
        mask_groups: int = 1,
        change: Callable[[Array], Array] | None = None,
    ) -> tuple[Float[Array, "N L D"], Float[Array, "N L D"] | None]:
        num_blocks, num_rows, length = block.tokens.shape
        keys = None
        if dropout_key is not None:
            place = jnp.arange(num_blocks) if place is None else jnp.atleast_1d(place)
            keys = drop.row_keys(dropout_key, place, num_rows, mask_groups)
        return self.encoder(
            jnp.reshape(block.tokens, (-1, length)),
            jnp.reshape(block.positions, (-1, length)),
            jnp.reshape(block.text, (-1, length)),
            keys=keys,
            change=change,
            gather_layer=gather_layer,
            also=self._second_layer(),
            remat=remat,
            segment=None if block.segment is None else jnp.reshape(block.segment, (-1, length)),
        )

    def _second_layer(self) -> int | None:
        if self.pooling == "first_last_mean":
            return 1
        return self.config.num_layers - 1 if self.pooling == "top2_mean" else None

    def _pool(
        self, last: Array, other: Array | None, block: Block, *, training_head: bool
    ) -> Float[Array, "K T D"]:
        num_blocks = block.first.shape[0]
        text, starts = jnp.asarray(block.text), jnp.asarray(block.first)
        if block.segment is not None:
            text = jnp.where(jnp.asarray(block.segment) == 0, text, NO_TEXT)
        text = text.reshape(num_blocks, -1)
        states = last.reshape(*text.shape, -1).astype(jnp.float32)
        if other is not None:
            states = 0.5 * (other.reshape(states.shape).astype(jnp.float32) + states)
        pooled = jax.vmap(lambda hidden, text, first: pool(self.pooling, hidden, text, first))(
            states, text, starts
        )
        if self.pooling == "cls_linear" or (self.pooling == "cls_mlp" and training_head):
            pooled = self.pooler(pooled)
        return pooled


def split(model: SentenceModel) -> tuple[GraphDef, Params]:
    """Take a model apart into its structure (static) and a nested dict of float32 arrays."""
    graphdef, state = nnx.split(model)
    return graphdef, nnx.to_pure_dict(state)


def merge(graphdef: GraphDef, params: Params) -> SentenceModel:
    """Put a model together again; cheap, and meant to be called inside `jax.jit`."""
    return nnx.merge(graphdef, params)
