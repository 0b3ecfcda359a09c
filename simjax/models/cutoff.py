"""Cutoffs: some features or tokens of a text's embeddings are zero, before the first layer.

They are those of ConSERT (Yan et al. 2021, arXiv 2105.11741, section 3.2, after Shen et al. 2020,
arXiv 2009.13818): of `n` features or tokens exactly `floor(rate * n)`, without rescaling the rest.
Which ones follows from the step's key, the block's place in the global batch and the text's number
in the block: not from micro-batches, devices, rows, or how the text is packed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from simjax.types import NO_TEXT, Block

# No block has a place so high, so that dropout never draws from the same keys.
_KEYS = 2**32 - 2


@dataclass(frozen=True)
class Cutoff:
    """What is cut.

    Attributes:
        of: Whether features are cut, the same ones of all tokens of a text, or whole tokens.
        rate: Share of them.
        views: Of each view of an example whether it is cut; text `t` is view `t % V`.
    """

    of: Literal["features", "tokens"]
    rate: float
    views: tuple[bool, ...]


def cut(
    x: Float[Array, "N L D"],
    cutoffs: tuple[Cutoff, ...],
    block: Block,
    place: Int[Array, "K"],
    key: Key[Array, ""],
) -> Float[Array, "N L D"]:
    """Embeddings with zeros where they are cut.

    Args:
        x: The embeddings of all rows of `K` blocks.
        cutoffs: What is cut, each by draws of its own.
        block: The blocks.
        place: Place of each block in the global batch.
        key: Of the step.
    """
    for number, cutoff in enumerate(cutoffs):
        keys = _text_keys(key, number, place, block.first.shape[-1])
        wanted = np.resize(np.asarray(cutoff.views), block.first.shape[-1])
        chosen = _features if cutoff.of == "features" else _tokens
        gone = chosen(keys, block, x.shape[-1], cutoff.rate)
        text = jnp.asarray(block.text)
        gone &= ((text != NO_TEXT) & jnp.asarray(wanted)[text])[..., None]
        x = jnp.where(gone.reshape(*x.shape[:2], -1), jnp.zeros((), x.dtype), x)
    return x


def _text_keys(
    key: Key[Array, ""], number: int, place: Int[Array, "K"], num_texts: int
) -> Key[Array, "K T"]:
    own = jax.random.fold_in(key, jnp.uint32(_KEYS - number))

    def of_block(block_place: Array) -> Array:
        block_key = jax.random.fold_in(own, block_place)
        fold = jax.vmap(lambda text: jax.random.fold_in(block_key, text))
        return fold(jnp.arange(num_texts, dtype=jnp.uint32))

    return jax.vmap(of_block)(place.astype(jnp.uint32))


def _features(
    keys: Key[Array, "K T"], block: Block, width: int, rate: float
) -> Bool[Array, "K R L D"]:
    """Which features of each token are cut."""
    count = int(np.floor(rate * width))
    permutation = jax.vmap(jax.vmap(lambda key: jax.random.permutation(key, width)))(keys)
    return jax.vmap(lambda of_texts, text: of_texts[text])(
        permutation < count, jnp.asarray(block.text)
    )


def _tokens(
    keys: Key[Array, "K T"], block: Block, width: int, rate: float
) -> Bool[Array, "K R L 1"]:
    """Which tokens are cut: those with the lowest draws of their text."""
    text, positions = jnp.asarray(block.text), jnp.asarray(block.positions)
    length = text.shape[-1]
    bits = jax.vmap(jax.vmap(lambda key: jax.random.bits(key, (length,), jnp.uint32)))(keys)
    draws = jax.vmap(lambda of_texts, text, position: of_texts[text, position])(
        bits, text, positions
    )
    same = text[..., :, None] == text[..., None, :]
    # Equal draws go by their places, so that the number is met whatever is drawn.
    earlier = jnp.arange(length)[None, :] < jnp.arange(length)[:, None]
    mine, others = draws[..., :, None], draws[..., None, :]
    lower = (others < mine) | ((others == mine) & earlier)
    rank, total = (jnp.sum(each, axis=-1) for each in (same & lower, same))
    counts = np.floor(rate * np.arange(length + 1)).astype(np.int32)
    return (rank < jnp.asarray(counts)[total])[..., None]
