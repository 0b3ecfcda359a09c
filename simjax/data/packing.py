"""Short texts side by side in rows of one length, so that little is computed for padding.

Rows are filled by best-fit decreasing: the longest text first, each into the fullest row that
still has room (Johnson 1973; on token lengths, Krell et al. 2021, arXiv 2107.02027). Lengths are
small integers, so the rows are kept on one stack per number of free places and the fullest
fitting row is found with one bit operation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np
from jaxtyping import Int

from simjax.data.disk_arrays import gather
from simjax.types import NO_TEXT, Block

_MANY = 64
"""Blocks that are placed faster together."""
_TOGETHER = 1024
"""Blocks that are placed together: what is known of their rows stays in a cache."""


class Tokens(Protocol):
    """The tokens of all texts, end to end: an array, or what is indexed like one."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Int[np.ndarray, "n"], /) -> Int[np.ndarray, "n"]: ...


@dataclass(frozen=True)
class Placement:
    """Where each text begins. Texts of length 0 take no place: they say row 0, column 0."""

    row: Int[np.ndarray, "n"]
    column: Int[np.ndarray, "n"]
    rows: int
    """Number of rows used."""


def best_fit_decreasing(lengths: Int[np.ndarray, "n"], row_length: int) -> Placement:
    """Place texts into as few rows of `row_length` tokens as best-fit decreasing finds.

    Any two rows hold more than `row_length` tokens together, so the number of rows is below
    `2 * lengths.sum() / row_length + 1`. Depends on nothing but the arguments.

    Args:
        lengths: tokens of each text; 0 for a text that is absent.
        row_length: tokens of a row.

    Raises:
        ValueError: a length is negative or above `row_length`.
    """
    lengths = np.asarray(lengths)
    count = len(lengths)
    _check(lengths, row_length)
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    present = int(np.count_nonzero(lengths))
    # Row numbers by free places; bit c of `open_` says that `by_room[c]` is not empty.
    by_room: list[list[int]] = [[] for _ in range(row_length + 1)]
    open_ = 0
    rows = 0
    row_of: list[int] = []
    column_of: list[int] = []
    for length in lengths[order[:present]].tolist():
        fitting = open_ >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            stack = by_room[room]
            row = stack.pop()
            if not stack:
                open_ ^= 1 << room
        else:
            room = row_length
            row = rows
            rows += 1
        row_of.append(row)
        column_of.append(row_length - room)
        room -= length
        if room:
            by_room[room].append(row)
            open_ |= 1 << room
    row_array = np.zeros(count, np.int32)
    column_array = np.zeros(count, np.int32)
    row_array[order[:present]] = row_of
    column_array[order[:present]] = column_of
    return Placement(row_array, column_array, rows)


def best_fit_blocks(lengths: Int[np.ndarray, "K T"], row_length: int) -> Placement:
    """Place the texts of each of `K` blocks where `best_fit_decreasing` places them.

    Of many blocks the longest texts of all are placed at once, then the second longest ones, and
    so on, in less than half of the time that one block after another takes.

    Args:
        lengths: tokens of each text of each block; 0 for a text that is absent.
        row_length: tokens of a row.

    Returns:
        Rows and columns [K, T], and the number of rows that the fullest block uses.

    Raises:
        ValueError: a length is negative or above `row_length`.
    """
    if len(lengths) < _MANY:
        placed = [best_fit_decreasing(block, row_length) for block in lengths]
    else:
        _check(lengths, row_length)
        parts = range(0, len(lengths), _TOGETHER)
        placed = [_place_together(lengths[at : at + _TOGETHER], row_length) for at in parts]
    texts = lengths.shape[1]
    return Placement(
        np.concatenate([placement.row.reshape(-1, texts) for placement in placed]),
        np.concatenate([placement.column.reshape(-1, texts) for placement in placed]),
        max(placement.rows for placement in placed),
    )


def _place_together(lengths: Int[np.ndarray, "K T"], row_length: int) -> Placement:
    blocks, texts = lengths.shape
    lengths = lengths.astype(np.int64)
    order = np.argsort(-lengths, axis=1, kind="stable")
    turns = np.take_along_axis(lengths, order, axis=1).T.astype(np.uint64, order="C")
    most = min(texts, 2 * int(lengths.sum(axis=1).max()) // row_length + 1)
    # The row to take has the smallest key that is enough: by its free places, and of rows with as
    # many it was filled last. Rows that are not open yet come behind all others, and in order.
    place = np.uint64(texts + 1)
    key = np.full((blocks, most), row_length * (texts + 1) + texts, np.uint64)
    row, column = np.zeros((2, blocks, texts), np.int32)
    block, rows = np.arange(blocks), 0
    for turn, length in enumerate(turns):
        present = length > 0
        if not present.any():
            break
        # Without a sign, a key that is too small is above all others.
        chosen = (key[:, : rows + 1] - (length * place)[:, None]).argmin(axis=1)
        before = key[block, chosen]
        room = before // place
        row[block, order[:, turn]] = np.where(present, chosen, 0)
        column[block, order[:, turn]] = np.where(present, row_length - room, 0)
        filled = (room - length) * place + np.uint64(texts - 1 - turn)
        key[block, chosen] = np.where(present, filled, before)
        rows = max(rows, 1 + int(chosen.max(where=present, initial=-1)))
    return Placement(row, column, rows)


def _check(lengths: Int[np.ndarray, "*n"], row_length: int) -> None:
    if lengths.size and not 0 <= lengths.min() <= lengths.max() <= row_length:
        raise ValueError(
            f"lengths from {lengths.min()} to {lengths.max()} in rows of {row_length} tokens"
        )


def deal(
    lengths: Int[np.ndarray, "B"], num_blocks: int, block_size: int
) -> Int[np.ndarray, "num_blocks block_size"]:
    """Share the examples of a batch out to blocks of equal size that carry equal tokens.

    In rounds, from the longest examples to the shortest: each block gets one example of the
    round, the longest going to the block with the fewest tokens so far.

    Args:
        lengths: tokens of each example, all its views together.
        num_blocks: number of blocks.
        block_size: examples of a block; `num_blocks * block_size` is the batch.

    Returns:
        The examples (indices into `lengths`) of each block.

    Raises:
        ValueError: the batch does not divide so.
    """
    lengths = np.asarray(lengths, np.int64)
    if len(lengths) != num_blocks * block_size:
        raise ValueError(f"{len(lengths)} examples for {num_blocks} blocks of {block_size}")
    rounds = np.argsort(-lengths, kind="stable").reshape(block_size, num_blocks)
    blocks = np.empty((num_blocks, block_size), np.int64)
    load = np.zeros(num_blocks, np.int64)
    for place, examples in enumerate(rounds):
        lightest_first = np.argsort(load, kind="stable")
        blocks[lightest_first, place] = examples
        load[lightest_first] += lengths[examples]
    return blocks


def ladder(needed: list[int], worst: int) -> tuple[int, ...]:
    """A short list of row numbers that is fine where it matters and reaches `worst`.

    Args:
        needed: rows that a sample of batches needs.
        worst: rows that no batch can exceed.
    """
    low, high = min(needed), max(needed)
    step = max(1, math.ceil((high - low) / 4))
    rungs = [*range(low, high, step), high]
    # Batches outside the sample stray a little from it more often than far.
    rungs.append(high + step)
    while rungs[-1] < worst:
        rungs.append(math.ceil(rungs[-1] * 1.25))
    return (*(rung for rung in rungs if rung < worst), worst)


def pack(
    tokens: Tokens,
    starts: Int[np.ndarray, "K T"],
    lengths: Int[np.ndarray, "K T"],
    row: Int[np.ndarray, "K T"],
    column: Int[np.ndarray, "K T"],
    *,
    rows: int,
    row_length: int,
) -> Block:
    """Copy texts to their places in `K` blocks of `rows` rows.

    Args:
        tokens: the tokens of all texts, end to end (a memory map will do).
        starts: where in `tokens` each text of each block begins.
        lengths: its number of tokens; 0 where a block has no such text.
        row: its row in the block.
        column: its first place in the row.
        rows: rows of a block (R).
        row_length: tokens of a row (L).

    Returns:
        NumPy arrays: tokens, positions and text [K, R, L], first [K, T].

    Raises:
        ValueError: a text lies outside the rows.
    """
    num_blocks, num_texts = starts.shape
    present = lengths > 0
    if np.any(present & ((row >= rows) | (column + lengths > row_length))):
        raise ValueError(f"texts do not fit into {rows} rows of {row_length} tokens")
    first = np.where(present, row * row_length + column, 0).astype(np.int32)
    block_of = np.arange(num_blocks)[:, None] * (rows * row_length)
    # Texts are copied in the order in which they lie in `tokens`, which may be on a disk.
    order = np.argsort(starts, axis=None, kind="stable")
    length = lengths.reshape(-1)[order].astype(np.int64)
    # Token t of the batch, counted over all texts so, is token `position[t]` of its text.
    before = np.cumsum(length) - length
    position = np.arange(length.sum()) - np.repeat(before, length)
    source = np.repeat(starts.reshape(-1)[order].astype(np.int64), length) + position
    target = np.repeat((first + block_of).reshape(-1)[order], length) + position
    text_of = np.repeat((order % num_texts).astype(np.int32), length)

    size = num_blocks * rows * row_length
    shape = (num_blocks, rows, row_length)
    packed = np.zeros(size, np.int32)
    packed[target] = gather(tokens, source)
    positions = np.zeros(size, np.int32)
    positions[target] = position
    text = np.full(size, NO_TEXT, np.int32)
    text[target] = text_of
    return Block(packed.reshape(shape), positions.reshape(shape), text.reshape(shape), first)


def pack_texts(
    texts: Sequence[Sequence[int]],
    *,
    rows: int,
    row_length: int,
    num_texts: int | None = None,
    placement: Placement | None = None,
) -> Block:
    """Pack token lists into one block [R, L] of a fixed shape.

    Args:
        texts: the token ids of each text; text `t` of the block is `texts[t]`.
        rows: rows of the block.
        row_length: tokens of a row.
        num_texts: `T` of the block, at least `len(texts)`; the rest are absent.
        placement: where the texts go, if that is decided already.

    Raises:
        ValueError: the texts do not fit.
    """
    total = len(texts) if num_texts is None else num_texts
    if len(texts) > total:
        raise ValueError(f"{len(texts)} texts in a block of {total}")
    used = np.fromiter((len(text) for text in texts), np.int64, len(texts))
    if placement is None:
        placement = best_fit_decreasing(used, row_length)
    lengths, starts, row, column = np.zeros((4, 1, total), np.int64)
    lengths[0, : len(texts)] = used
    starts[0, : len(texts)] = np.cumsum(used) - used
    row[0, : len(texts)] = placement.row
    column[0, : len(texts)] = placement.column
    tokens = np.fromiter(chain.from_iterable(texts), np.int32, int(used.sum()))
    block = pack(tokens, starts, lengths, row, column, rows=rows, row_length=row_length)
    return Block(block.tokens[0], block.positions[0], block.text[0], block.first[0])
