"""Packed batches of one shape for each batch size, in an order that depends on the seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from simjax.data.packing import best_fit_blocks, deal, pack
from simjax.inference import Cutter
from simjax.lab.precision.texts import Pair
from simjax.types import Batch

BLOCK = 32
"""Most examples of a block."""


@dataclass(frozen=True)
class PairTokens:
    """Tokens of pairs of texts.

    Attributes:
        tokens: Of all texts, end to end.
        starts: Where in `tokens` each text begins.
        lengths: Tokens of each text.
    """

    tokens: Int[np.ndarray, "total"]
    starts: Int[np.ndarray, "N 2"]
    lengths: Int[np.ndarray, "N 2"]

    @classmethod
    def of(cls, pairs: Sequence[Pair], cutter: Cutter) -> PairTokens:
        """Tokenise pairs."""
        tokens, lengths = cutter([text for pair in pairs for text in pair])
        starts = np.cumsum(lengths) - lengths
        return cls(tokens, starts.reshape(-1, 2), lengths.reshape(-1, 2))


def order(seed: int, count: int, batch: int, steps: int) -> Int[np.ndarray, "steps batch"]:
    """Examples of each batch: one permutation after another, what is left of each dropped."""
    per_epoch = count // batch
    epochs = -(-steps // per_epoch)
    shuffled = [np.random.default_rng((seed, epoch)).permutation(count) for epoch in range(epochs)]
    whole = [examples[: per_epoch * batch].reshape(per_epoch, batch) for examples in shuffled]
    return np.concatenate(whole)[:steps]


def make(
    pairs: PairTokens, orders: Sequence[Int[np.ndarray, "steps batch"]], row_length: int
) -> list[list[Batch]]:
    """The batches of each order, all of one shape, so that a step is compiled once.

    Args:
        pairs: What they are made of.
        orders: One for each seed.
        row_length: Tokens of a packed row.
    """
    plans = [[_plan(pairs, examples, row_length) for examples in steps] for steps in orders]
    rows = max(plan.rows for steps in plans for plan in steps)
    return [[plan.batch(pairs, rows, row_length) for plan in steps] for steps in plans]


@dataclass(frozen=True)
class _Plan:
    examples: Int[np.ndarray, "K E"]
    row: Int[np.ndarray, "K T"]
    column: Int[np.ndarray, "K T"]
    rows: int

    def batch(self, pairs: PairTokens, rows: int, row_length: int) -> Batch:
        blocks = len(self.examples)
        starts, lengths = (
            x[self.examples].reshape(blocks, -1) for x in (pairs.starts, pairs.lengths)
        )
        block = pack(
            pairs.tokens, starts, lengths, self.row, self.column, rows=rows, row_length=row_length
        )
        ids = 2 * self.examples[:, :, None] + np.arange(2)
        return Batch(
            block,
            ids.astype(np.int32),
            np.full(self.examples.shape, -1, np.int32),
            np.arange(blocks, dtype=np.int32),
        )


def _plan(pairs: PairTokens, examples: Int[np.ndarray, "batch"], row_length: int) -> _Plan:
    size = min(len(examples), BLOCK)
    lengths = pairs.lengths[examples]
    dealt = deal(lengths.sum(axis=1), len(examples) // size, size)
    placed = best_fit_blocks(lengths[dealt].reshape(len(dealt), -1), row_length)
    return _Plan(examples[dealt], placed.row, placed.column, placed.rows)
