"""Which examples a global batch holds: a function of the seed and the batch's number alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from threading import Lock
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from simjax.data.distinct import distinct_batches
from simjax.data.shuffle import permute

Mixing: TypeAlias = Literal["one_source", "mixed"]

WINDOW = 64
"""Batches among which those of different sources are shuffled; each window keeps the shares."""


class BatchOrder:
    """The examples of each batch of one source or of a mixture.

    Each source is gone through in passes; every pass is a pseudo-random permutation of it. With
    `one_source`, what is left of a pass after its last whole batch is dropped; with `mixed`, the
    next pass follows within a batch.

    Sources get their turns, or their examples, by Webster's method of apportionment: after any
    number of them each source has had its share, rounded.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        batch_size: int,
        seed: int,
        *,
        weights: Sequence[float] | None = None,
        mixing: Mixing = "one_source",
        texts: Int[np.ndarray, "N V"] | None = None,
    ) -> None:
        """Fix the order.

        Args:
            sizes: examples of each source; examples are numbered over all of them.
            batch_size: examples of a batch.
            seed: of the permutations.
            weights: how often a source has a turn (`one_source`) or gives an example (`mixed`);
                None goes by the sources' sizes.
            mixing: whether a batch is of one source or of all.
            texts: id of each text of each example, negative where there is none: no two examples
                of a batch then share a text. None does not look.
        """
        self._sizes = np.asarray(sizes)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._batch = batch_size
        self._seed = seed
        self._mixed = mixing == "mixed" and len(sizes) > 1
        self._texts = texts
        steps = np.maximum(self._sizes // batch_size, 1)
        shares = self._sizes if self._mixed else steps
        chosen = np.asarray(shares if weights is None else weights, np.float64)
        self._shares = chosen / chosen.sum()
        self.needed: list[int] = [
            math.ceil(batch_size * share) if self._mixed else batch_size for share in self._shares
        ]
        """Examples of each source that a batch takes, if any; the source must hold as many."""
        self.steps_per_epoch = int(self._sizes.sum() // batch_size if self._mixed else steps.sum())
        """Batches that have as many examples as all sources together."""
        # Batches are made by several threads, and a plan of a whole pass is made once.
        self._lock = Lock()
        self._planned = lru_cache(maxsize=2 * len(sizes))(self._plan)

    def examples(self, n: int) -> Int[np.ndarray, "B"]:
        """The examples of batch `n`, counting from 0 on without end."""
        if self._mixed:
            if self._texts is None:
                return self._mixed_batch(n)
            epoch, step = divmod(n, self.steps_per_epoch)
            return self._distinct(0, epoch)[step]
        source, turn = self._turn(n)
        number, step = divmod(turn, int(self._sizes[source]) // self._batch)
        if self._texts is not None:
            return self._distinct(source, number)[step]
        places = np.arange(step * self._batch, (step + 1) * self._batch)
        return self._of_pass(source, number, places)

    def source_of(self, n: int) -> int | None:
        """The source of batch `n`, None if it has examples of all."""
        return None if self._mixed else self._turn(n)[0]

    def _of_pass(
        self, source: int, number: int, places: Int[np.ndarray, "n"]
    ) -> Int[np.ndarray, "n"]:
        """Examples at some places of a pass through a source."""
        seed = (self._seed, number, source)
        return self._starts[source] + permute(places, int(self._sizes[source]), seed)

    def _turn(self, n: int) -> tuple[int, int]:
        """The source of batch `n`, and how many batches of that source come before."""
        if len(self._sizes) == 1:
            return 0, n
        window, place = divmod(n, WINDOW)
        before, after = (apportion((window + i) * WINDOW, self._shares) for i in (0, 1))
        owners = np.repeat(np.arange(len(before)), after - before)
        # No pass has this seed: its last number would be that of a source.
        seed = (self._seed, window, len(before))
        owners = owners[permute(np.arange(WINDOW), WINDOW, seed)]
        source = int(owners[place])
        return source, int(before[source] + np.count_nonzero(owners[:place] == source))

    def _mixed_batch(self, n: int) -> Int[np.ndarray, "B"]:
        before, after = (apportion((n + i) * self._batch, self._shares) for i in (0, 1))
        found = []
        for source, size in enumerate(self._sizes):
            passes, places = np.divmod(np.arange(before[source], after[source]), size)
            for number in np.unique(passes):
                found.append(self._of_pass(source, int(number), places[passes == number]))
        return np.concatenate(found)

    def _distinct(self, source: int, number: int) -> Int[np.ndarray, "steps B"]:
        with self._lock:
            return self._planned(source, number)

    def _plan(self, source: int, number: int) -> Int[np.ndarray, "steps B"]:
        """All batches of a pass through a source, or of an epoch of the mixture."""
        assert self._texts is not None  # asked for
        if self._mixed:
            steps = self.steps_per_epoch
            batches = [self._mixed_batch(number * steps + step) for step in range(steps)]
            order = np.concatenate(batches)
        else:
            size = int(self._sizes[source])
            steps = size // self._batch
            order = self._of_pass(source, number, np.arange(size))
        return distinct_batches(order, self._texts, steps, self._batch)


def apportion(total: int, shares: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """The first `total` turns of an endless sequence of turns, counted by their owners.

    Webster's method: turn k of owner i (from 0) has the rank (k + 1/2) / share_i, and turns come
    by rank. Counts therefore never fall as the total grows, and stray little from their quotas.

    Args:
        total: number of turns.
        shares: positive, with the sum 1.
    """
    # Nobody has fewer than this: the rank reached is at least total - n / 2.
    lowest = np.floor(shares * (total - len(shares) / 2) - 0.5)
    counts = np.maximum(lowest, 0).astype(np.int64)
    for _ in range(total - int(counts.sum())):
        counts[np.argmin((counts + 0.5) / shares)] += 1
    return counts
