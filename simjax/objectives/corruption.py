"""Masked words in the text in front, while the one behind is predicted as it is (RoFormer-Sim).

Some of the texts have some of their words replaced: four fifths of these by the mask, a tenth by
any tokens, and a tenth by themselves; what becomes of a word becomes of all its tokens
(github.com/ZhuiyiTechnology/roformer-sim).
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from simjax.objectives.masked_lm import MASKED, RANDOM, Vocabulary
from simjax.types import NO_TEXT, Block


def corrupt_front(
    key: Key[Array, ""], block: Block, share: float, rate: float, vocabulary: Vocabulary
) -> Block:
    """One block with words of first segments replaced.

    Args:
        key: Of the block.
        block: Tokens and segments [R, L].
        share: Of the texts that are corrupted.
        rate: Share of their words that are.
        vocabulary: What may be put there, what is left alone, and which tokens go on a word.
    """
    assert block.segment is not None  # of texts that have two
    text, tokens, segment = (jnp.ravel(x) for x in (block.text, block.tokens, block.segment))
    size = tokens.shape[0]
    which, what, other = jax.random.split(key, 3)
    chosen = jax.random.uniform(which, (block.first.shape[0],)) < share
    here = (text != NO_TEXT) & (segment == 0) & chosen[jnp.maximum(text, 0)]
    here &= ~_table(vocabulary.special, vocabulary.size)[tokens]
    # One draw for a word: that of its first token.
    goes_on = _table(vocabulary.continues, vocabulary.size)[tokens]
    if block.goes_on is not None:
        goes_on |= jnp.ravel(block.goes_on)
    fate = jax.random.uniform(what, (size,))[word_starts(goes_on)]
    drawn = jax.random.randint(other, (size,), 0, vocabulary.size, tokens.dtype)
    masked = here & (fate < MASKED * rate)
    random = here & (fate >= (1 - RANDOM) * rate) & (fate < rate)
    put = jnp.where(masked, jnp.asarray(vocabulary.mask, tokens.dtype), tokens)
    return replace(block, tokens=jnp.where(random, drawn, put).reshape(block.tokens.shape))


def word_starts(goes_on: Bool[Array, "P"]) -> Int[Array, "P"]:
    """The place of the first token of each token's word, from which tokens go on the one before."""
    places = jnp.arange(goes_on.shape[0])
    return jax.lax.cummax(jnp.where(goes_on, 0, places))


def _table(numbers: tuple[int, ...], size: int) -> Bool[Array, "V"]:
    table = np.zeros(size, bool)
    table[list(numbers)] = True
    return jnp.asarray(table)
