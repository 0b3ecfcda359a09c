"""Texts laid out in rows, one to a row or several, for the tests of the models."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from simjax.types import NO_TEXT, Block

# Lengths that fill some rows to the end and leave padding in others.
LENGTHS = (5, 9, 1, 12, 3, 16, 7, 2)


def random_texts(vocab_size: int, lengths: Sequence[int] = LENGTHS, seed: int = 0):
    """Token ids without the special ones, which padding and RoBERTa's positions depend on."""
    rng = np.random.default_rng(seed)
    return [rng.integers(5, vocab_size, n).tolist() for n in lengths]


def pack(texts: Sequence[Sequence[int]], row_length: int, *, together: bool, rows=None) -> Block:
    """One block: each text in a row of its own, or as many to a row as there is room for."""
    places, row, column = [], -1, row_length
    for text in texts:
        if not together or column + len(text) > row_length:
            row, column = row + 1, 0
        places.append((row, column))
        column += len(text)
    shape = (row + 1 if rows is None else rows, row_length)
    tokens = np.full(shape, 3, np.int32)  # padding that would show if anything read it
    positions = np.zeros(shape, np.int32)
    text_index = np.full(shape, NO_TEXT, np.int32)
    for number, (text, (row, column)) in enumerate(zip(texts, places, strict=True)):
        span = slice(column, column + len(text))
        tokens[row, span] = text
        positions[row, span] = np.arange(len(text))
        text_index[row, span] = number
    first = [row * row_length + column for row, column in places]
    return Block(
        jnp.asarray(tokens),
        jnp.asarray(positions),
        jnp.asarray(text_index),
        jnp.asarray(first, jnp.int32),
    )


def unpack(hidden: np.ndarray, block: Block) -> list[np.ndarray]:
    """Each text's own rows of `hidden` [R, L, D]."""
    flat, text = np.asarray(hidden), np.asarray(block.text)
    return [flat[text == number] for number in range(block.first.shape[0])]
