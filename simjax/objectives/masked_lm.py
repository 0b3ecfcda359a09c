"""Masked language modelling, as an auxiliary beside a contrastive objective.

Tokens are chosen at a rate, and of these four fifths become the mask, a tenth any token, and a
tenth stay as they are (Devlin et al. 2019, arXiv 1810.04805, section 3.1). SimCSE adds its loss at
a weight of 0.1, all texts of the batch being encoded once more (arXiv 2104.08821, section 3.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from simjax.objectives.config import MaskedLmConfig
from simjax.objectives.separable import GatherLayer, Sums, token_sums
from simjax.types import NO_TEXT, Batch, Block, Params

MASKED, RANDOM = 0.8, 0.1
"""Of what is chosen, the shares that become the mask, and any token."""
_SPREADS = 6
"""There is room for so many standard deviations, and tokens, beyond the mean number of chosen."""


class TokenLosses(Protocol):
    """Predicts the tokens that stood at some places of a batch's blocks."""

    def __call__(
        self,
        params: Params,
        batch: Batch,
        where: Int[Array, "K M"],
        targets: Int[Array, "K M"],
        dropout_key: Key[Array, ""] | None,
        gather_layer: GatherLayer,
    ) -> tuple[Float[Array, "K M"], Bool[Array, "K M"]]:
        """-log p of each target, and whether it is the likeliest token."""


@dataclass(frozen=True)
class Vocabulary:
    """What of the tokenizer counts.

    Attributes:
        size: Number of tokens.
        mask: Number of the mask.
        special: Tokens that are never chosen.
        continues: Tokens that go on the word of the token before, as WordPiece marks with `##`.
    """

    size: int
    mask: int
    special: tuple[int, ...]
    continues: tuple[int, ...] = ()


@dataclass(frozen=True)
class MaskedLm:
    """The auxiliary loss: the mean of -log p over the chosen tokens of the global batch.

    Attributes:
        config: Rate and weight.
        vocabulary: The tokens.
        token_losses: The encoder with its head.
        dropout: Whether the encoder drops out in training.
    """

    config: MaskedLmConfig
    vocabulary: Vocabulary
    token_losses: TokenLosses
    dropout: bool

    name = "mlm"

    @property
    def weight(self) -> float:
        """What the mean is multiplied by."""
        return self.config.weight

    def sums(
        self,
        params: Params,
        batch: Batch,
        key: Key[Array, ""],
        gather_layer: GatherLayer,
        step: Int[Array, ""] | int = 0,
    ) -> Sums:
        """Over some blocks; what becomes of a block does not depend on the others."""
        mask_key, dropout_key = jax.random.split(key)
        keys = jax.vmap(lambda place: jax.random.fold_in(mask_key, place))(
            jnp.asarray(batch.place).astype(jnp.uint32)
        )
        block, where, targets = jax.vmap(self._corrupt)(
            keys, jax.tree.map(jnp.asarray, batch.block)
        )
        losses, right = self.token_losses(
            params,
            replace(batch, block=block),
            where,
            targets,
            dropout_key if self.dropout else None,
            gather_layer,
        )
        return token_sums(losses, right, targets)

    def _corrupt(
        self, key: Key[Array, ""], block: Block
    ) -> tuple[Block, Int[Array, "M"], Int[Array, "M"]]:
        return corrupt(key, block, self.config.rate, self.vocabulary)


def room(size: int, rate: float) -> int:
    """Most tokens that are chosen of a block of ``size`` places."""
    spread = math.sqrt(size * rate * (1 - rate))
    return min(size, math.ceil(size * rate + _SPREADS * spread) + _SPREADS)


def corrupt(
    key: Key[Array, ""], block: Block, rate: float, vocabulary: Vocabulary
) -> tuple[Block, Int[Array, "M"], Int[Array, "M"]]:
    """Chooses tokens of one block and puts others in their places.

    Args:
        key: Of the block.
        block: Tokens [R, L].
        rate: Share of tokens that are chosen.
        vocabulary: What may be put there, and what is left alone.

    Returns:
        The block; the flat places of the chosen tokens, in their order, and which tokens stood
        there. Room that is left holds place R * L and token -1.
    """
    tokens = jnp.ravel(block.tokens)
    size = tokens.shape[0]
    which, what, other = jax.random.split(key, 3)
    special = jnp.asarray(vocabulary.special, tokens.dtype)
    ordinary = (jnp.ravel(block.text) != NO_TEXT) & (tokens[:, None] != special).all(axis=1)
    chosen = ordinary & (jax.random.uniform(which, (size,)) < rate)
    places = room(size, rate)
    (where,) = jnp.nonzero(chosen, size=places, fill_value=size)
    targets = jnp.where(where < size, jnp.take(tokens, where, mode="clip"), -1)
    fate = jax.random.uniform(what, (places,))
    drawn = jax.random.randint(other, (places,), 0, vocabulary.size, tokens.dtype)
    put = jnp.where(
        fate < MASKED, vocabulary.mask, jnp.where(fate < MASKED + RANDOM, drawn, targets)
    )
    corrupted = tokens.at[where].set(put.astype(tokens.dtype), mode="drop")
    return replace(block, tokens=corrupted.reshape(block.tokens.shape)), where, targets
