"""Many texts through a model in few shapes: what a call computes, and in which rows.

Texts share rows as in training. The shapes are few and fixed, so that after the first calls
nothing is compiled again, whatever the number and the lengths of the texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from simjax.data.packing import Placement, best_fit_decreasing, pack
from simjax.types import Block

ROW_LENGTHS = (48, 96, 192, 384, 512)
"""Tokens of a row. A longer text gets a row of the next multiple of the last."""

SHORTEST = 4
"""Shorter texts take this many places, which bounds the texts of a row."""


@dataclass(frozen=True)
class Call:
    """Blocks of a fixed shape, and the texts in them.

    Attributes:
        block: One block, [R, L], or one for each device, [K, R, L]; each of `R * L / SHORTEST`
            texts, of which the first are there.
        texts: Which texts are in them.
        places: Where each of these is among the texts of all blocks.
    """

    block: Block
    texts: Int[np.ndarray, "n"]
    places: Int[np.ndarray, "n"]


def _own_row_length(longest: int) -> int:
    for length in ROW_LENGTHS:
        if longest <= length:
            return length
    return -(-longest // ROW_LENGTHS[-1]) * ROW_LENGTHS[-1]


def _groups(
    lengths: Int[np.ndarray, "n"], base: int
) -> Iterator[tuple[int, Int[np.ndarray, "m"], Placement]]:
    """Texts up to `base` tokens in rows of `base`, longer ones in the shortest rows that fit."""
    own = np.asarray([_own_row_length(length) for length in range(int(lengths.max()) + 1)])
    row_length = np.maximum(own[lengths], base)
    for length in np.unique(row_length).tolist():
        members = np.flatnonzero(row_length == length)
        yield length, members, best_fit_decreasing(lengths[members], length)


def plan_rows(
    lengths: Int[np.ndarray, "n"], width: int
) -> list[tuple[int, Int[np.ndarray, "m"], Placement]]:
    """Choose row lengths for texts and place them.

    Short rows cost less attention, long rows fill better: texts of 30 tokens leave a third of a
    row of 48 empty, and 6 % of a row of 96. The cost of a token in a layer is taken as
    ``1 + L / (2 D)``: products with the weights and attention, whose softmax weighs more than
    its operations.

    Args:
        lengths: Tokens of each text, at least `SHORTEST`.
        width: Hidden size (D).

    Returns:
        For each row length: the texts, and their places in rows of that length.
    """
    best: list[tuple[int, Int[np.ndarray, "m"], Placement]] = []
    least = np.inf
    for base in ROW_LENGTHS:
        groups = list(_groups(lengths, base))
        cost = sum(
            placement.rows * length * (1 + length / (2 * width)) for length, _, placement in groups
        )
        if cost < least:
            best, least = groups, cost
    return best


def split_rows(rows: int, most: int, blocks: int = 1) -> Iterator[tuple[int, int, int]]:
    """Cut rows into calls, each (rows taken, rows computed by a block, blocks).

    The rows of a block are `most` divided by powers of 4; a call computes more rows than it has
    only where at most a quarter of them are empty, or where there is no smaller call. Rows that
    would leave more than a quarter of the blocks without any go into one block.
    """
    while rows > 0:
        if 4 * rows <= 3 * blocks:
            blocks = 1
        size = most
        while size > 1 and 4 * rows <= 3 * size * blocks:
            size = max(1, size // 4)
        taken = min(rows, size * blocks)
        yield taken, size, blocks
        rows -= taken


def calls(
    tokens: Int[np.ndarray, "total"],
    lengths: Int[np.ndarray, "n"],
    *,
    width: int,
    most_tokens: int,
    blocks: int = 1,
) -> Iterator[Call]:
    """Pack texts into blocks.

    Args:
        tokens: The tokens of all texts, end to end.
        lengths: Tokens of each text.
        width: Hidden size (D).
        most_tokens: Most places in a block, empty ones included, but at least one row.
        blocks: Blocks that are computed at the same time, by a device each. Calls of few rows
            have one block nevertheless.
    """
    starts = np.cumsum(lengths) - lengths
    for row_length, members, placement in plan_rows(np.maximum(lengths, SHORTEST), width):
        order = np.argsort(placement.row, kind="stable")
        rows = placement.row[order]
        done = 0
        most = max(1, most_tokens // row_length)
        for taken, computed, several in split_rows(placement.rows, most, blocks):
            edges = np.minimum(done + computed * np.arange(several + 1), done + taken)
            bounds = np.searchsorted(rows, edges)
            chosen = order[bounds[0] : bounds[-1]]
            held = computed * row_length // SHORTEST
            block_of = np.repeat(np.arange(several), np.diff(bounds))
            place = np.arange(len(chosen)) - (bounds[:-1] - bounds[0])[block_of]
            texts = members[chosen]
            plan = np.zeros((4, several, held), np.int64)
            plan[0, block_of, place] = starts[texts]
            plan[1, block_of, place] = lengths[texts]
            plan[2, block_of, place] = placement.row[chosen] - done - computed * block_of
            plan[3, block_of, place] = placement.column[chosen]
            block = pack(tokens, *plan, rows=computed, row_length=row_length)
            if several == 1:
                block = Block(block.tokens[0], block.positions[0], block.text[0], block.first[0])
            yield Call(block, texts, block_of * held + place)
            done += taken
