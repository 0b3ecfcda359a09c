"""Many texts through a model in few shapes: what a call computes, and in which rows.

Texts share rows as in training. The shapes are few and fixed, so that after the first calls
nothing is compiled again, whatever the number and the lengths of the texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from simjax.data.packing import Placement, best_fit_decreasing, pack
from simjax.errors import UsageError
from simjax.types import Block

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROW_LENGTHS = (48, 96, 192, 384, 512)
"""Tokens of a row. A longer text gets a row of the next multiple of the last."""

SHORTEST = 4
"""Shorter texts take this many places, which bounds the texts of a row."""


def longest_text(asked: int | None, tokenizer: PreTrainedTokenizerFast, positions: int) -> int:
    """Tokens, special ones included, beyond which a text is cut.

    Args:
        asked: The length asked for; None takes what tokenizer and model allow.
        tokenizer: The tokenizer.
        positions: Positions of the model.

    Raises:
        UsageError: `asked` is more than the model has, or no more than the special tokens take.
    """
    if asked is None:
        # A tokenizer that does not know its model's length says 10^30.
        return min(positions, tokenizer.model_max_length)
    if asked > positions:
        raise UsageError(f"max_length {asked}: the model has {positions} positions")
    special = tokenizer.num_special_tokens_to_add()
    if asked <= special:
        raise UsageError(f"max_length {asked}: no room beside {special} special tokens")
    return asked


class Cutter:
    """Texts to tokens: a fast tokenizer's engine that cuts at a length and pads nothing."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_length: int) -> None:
        """Copy the engine, so that the tokenizer itself stays as it is.

        Args:
            tokenizer: A fast tokenizer.
            max_length: Tokens, special ones included, beyond which a text is cut.
        """
        from tokenizers import Tokenizer

        self._engine = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._engine.no_padding()
        self._engine.enable_truncation(max_length, direction=tokenizer.truncation_side)

    def __call__(
        self, texts: Sequence[str]
    ) -> tuple[Int[np.ndarray, "total"], Int[np.ndarray, "n"]]:
        """The tokens of all texts, end to end, and how many each text has.

        A lone surrogate, which stands for no character, is read as U+FFFD.
        """
        try:
            found = self._engine.encode_batch_fast(list(texts))
        except (UnicodeEncodeError, TypeError):
            # Two surrogates may also be one character.
            whole = [text.encode("utf-16", "surrogatepass") for text in texts]
            found = self._engine.encode_batch_fast(
                [text.decode("utf-16", "replace") for text in whole]
            )
        ids = [entry.ids for entry in found]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        return np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum())), lengths


@dataclass(frozen=True)
class Call:
    """One block of a fixed shape, and the texts in it.

    Attributes:
        block: One block, [R, L], of `R * L / SHORTEST` texts, of which the first are there.
        texts: Which text each of the first ones is.
    """

    block: Block
    texts: Int[np.ndarray, "n"]


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


def split_rows(rows: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut rows into calls, each (rows taken, rows computed).

    The rows computed are `most` divided by powers of 4; a call computes more rows than it has
    only where at most a quarter of them are empty, or where there is no smaller call.
    """
    while rows > 0:
        size = most
        while size > 1 and 4 * rows <= 3 * size:
            size = max(1, size // 4)
        yield min(rows, size), size
        rows -= size


def calls(
    tokens: Int[np.ndarray, "total"],
    lengths: Int[np.ndarray, "n"],
    *,
    width: int,
    most_tokens: int,
) -> Iterator[Call]:
    """Pack texts into blocks.

    Args:
        tokens: The tokens of all texts, end to end.
        lengths: Tokens of each text.
        width: Hidden size (D).
        most_tokens: Most places in a call, empty ones included, but at least one row.
    """
    starts = np.cumsum(lengths) - lengths
    for row_length, members, placement in plan_rows(np.maximum(lengths, SHORTEST), width):
        order = np.argsort(placement.row, kind="stable")
        rows = placement.row[order]
        done = 0
        for taken, computed in split_rows(placement.rows, max(1, most_tokens // row_length)):
            begin, end = np.searchsorted(rows, [done, done + taken])
            chosen = order[begin:end]
            texts = members[chosen]
            plan = np.zeros((4, 1, computed * row_length // SHORTEST), np.int64)
            plan[0, 0, : len(texts)] = starts[texts]
            plan[1, 0, : len(texts)] = lengths[texts]
            plan[2, 0, : len(texts)] = placement.row[chosen] - done
            plan[3, 0, : len(texts)] = placement.column[chosen]
            block = pack(tokens, *plan, rows=computed, row_length=row_length)
            yield Call(
                Block(block.tokens[0], block.positions[0], block.text[0], block.first[0]), texts
            )
            done += taken
