"""Prediction of a text's second segment from its first, beside a contrastive objective.

SimBERT learns to write a paraphrase with the encoder that embeds it, under UniLM's mask (Dong et
al. 2019, arXiv 1905.03197, section 2.3; github.com/ZhuiyiTechnology/simbert). The hidden states are
those that the embeddings come from, so that it takes no pass of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from simjax.objectives.config import Seq2SeqConfig
from simjax.objectives.corruption import corrupt_front
from simjax.objectives.masked_lm import Vocabulary
from simjax.objectives.separable import GatherLayer, Sums, token_sums
from simjax.types import Batch, Block, Params


class EmbedAndPredict(Protocol):
    """Embeds texts, and predicts tokens from the states at some places of a batch's blocks."""

    def __call__(
        self,
        params: Params,
        batch: Batch,
        where: Int[Array, "K M"],
        targets: Int[Array, "K M"],
        dropout_key: Key[Array, ""] | None,
        gather_layer: GatherLayer,
    ) -> tuple[Float[Array, "K T D"], Float[Array, "K M"], Bool[Array, "K M"]]:
        """Vectors; -log p of each target, and whether it is the likeliest token."""


@dataclass(frozen=True)
class Seq2Seq:
    """The mean of -log p over the global batch's tokens of second segments.

    Attributes:
        config: Its weight.
        embed_and_predict: The encoder with its head.
        dropout: Whether the encoder drops out in training.
        vocabulary: What words are corrupted with, where some are.
    """

    config: Seq2SeqConfig
    embed_and_predict: EmbedAndPredict
    dropout: bool
    vocabulary: Vocabulary | None = None

    name = "seq2seq"

    @property
    def weight(self) -> float:
        """What the mean is multiplied by."""
        return self.config.weight

    def encode(
        self, params: Params, batch: Batch, key: Key[Array, ""], gather_layer: GatherLayer
    ) -> tuple[Float[Array, "K T D"], Sums]:
        """Embeddings of some blocks and the sums over them; no block depends on the others."""
        block = jax.tree.map(jnp.asarray, batch.block)
        where, targets = jax.vmap(predicted)(block)
        if self.vocabulary is not None:
            # No block has this number, so the key is none that dropout draws from.
            own = jax.random.fold_in(key, jnp.uint32(2**32 - 2))
            places = jnp.asarray(batch.place).astype(jnp.uint32)
            keys = jax.vmap(lambda place: jax.random.fold_in(own, place))(places)
            block = jax.vmap(self._corrupt)(keys, block)
        vectors, losses, right = self.embed_and_predict(
            params,
            replace(batch, block=block),
            where,
            targets,
            key if self.dropout else None,
            gather_layer,
        )
        return vectors, token_sums(losses, right, targets)

    def _corrupt(self, key: Key[Array, ""], block: Block) -> Block:
        assert self.vocabulary is not None  # asked for
        config = self.config
        return corrupt_front(key, block, config.corrupted, config.rate, self.vocabulary)


def predicted(block: Block, room: int | None = None) -> tuple[Int[Array, "M"], Int[Array, "M"]]:
    """The tokens of second segments of one block, each predicted from the place before it.

    A segment that is whole begins with a token that is known, at place 0, and not predicted.

    Args:
        block: Tokens and segments [R, L].
        room: `M`; None is half of the block's places. So many are enough where every text stands
            in front once and behind once, since its first token behind is left out.

    Returns:
        The flat places that tokens are predicted from, and the tokens. Room that is left holds a
        place beyond the last, and token -1.
    """
    assert block.segment is not None  # of texts that have two
    tokens = jnp.ravel(block.tokens)
    size = tokens.shape[0]
    room = size // 2 if room is None else room
    behind = (jnp.ravel(block.segment) == 1) & (jnp.ravel(block.positions) > 0)
    (place,) = jnp.nonzero(behind, size=room, fill_value=size)
    targets = jnp.where(place < size, jnp.take(tokens, place, mode="clip"), -1)
    return jnp.where(place < size, place - 1, size), targets
