"""Prediction of a text's second segment from its first, beside a contrastive objective.

SimBERT learns to write a paraphrase with the encoder that embeds it, under UniLM's mask (Dong et
al. 2019, arXiv 1905.03197, section 2.3; github.com/ZhuiyiTechnology/simbert). The hidden states are
those that the embeddings come from, so that it takes no pass of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from simjax.objectives.config import Seq2SeqConfig
from simjax.objectives.separable import GatherLayer, Sums
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
    """

    config: Seq2SeqConfig
    embed_and_predict: EmbedAndPredict
    dropout: bool

    name = "seq2seq"

    @property
    def weight(self) -> float:
        """What the mean is multiplied by."""
        return self.config.weight

    def encode(
        self, params: Params, batch: Batch, key: Key[Array, ""], gather_layer: GatherLayer
    ) -> tuple[Float[Array, "K T D"], Sums]:
        """Embeddings of some blocks and the sums over them; no block depends on the others."""
        where, targets = jax.vmap(predicted)(jax.tree.map(jnp.asarray, batch.block))
        vectors, losses, right = self.embed_and_predict(
            params, batch, where, targets, key if self.dropout else None, gather_layer
        )
        chosen = targets >= 0
        sums = Sums(
            loss=jnp.where(chosen, losses, 0.0).sum(),
            weight=chosen.sum(dtype=jnp.float32),
            metrics={"accuracy": (right & chosen).sum(dtype=jnp.float32)},
        )
        return vectors, sums


def predicted(block: Block) -> tuple[Int[Array, "M"], Int[Array, "M"]]:
    """The tokens of second segments of one block, each predicted from the place before it.

    Of its tokens half at most are predicted: every text stands in front once and behind once, and
    its first token behind is left out.

    Args:
        block: Tokens and segments [R, L].

    Returns:
        The flat places that tokens are predicted from, and the tokens. Room that is left holds a
        place beyond the last, and token -1.
    """
    assert block.segment is not None  # of texts that have two
    tokens = jnp.ravel(block.tokens)
    size = tokens.shape[0]
    (place,) = jnp.nonzero(jnp.ravel(block.segment) == 1, size=size // 2, fill_value=size)
    targets = jnp.where(place < size, jnp.take(tokens, place, mode="clip"), -1)
    return jnp.where(place < size, place - 1, size), targets
