"""Batches no two of whose examples share a text."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from simjax.errors import SimjaxError


def distinct_batches(
    order: Int[np.ndarray, "n"],
    texts: Int[np.ndarray, "N V"],
    num_batches: int,
    batch_size: int,
) -> Int[np.ndarray, "num_batches batch_size"]:
    """Deal examples out to batches so that no two of a batch share a text.

    Each batch takes what fits from the examples that earlier ones put back, then goes on in the
    order given. Where the last batches find too few that fit, they repeat examples of the same
    order; what never fitted is left out. Whole arrays are compared at a time: a text belongs to
    the first of the candidates that has it, and candidates that own all of their texts are taken.

    Args:
        order: examples, rows of `texts`; at least `num_batches * batch_size`.
        texts: id of each text of each example, negative where there is none.
        num_batches: batches to make.
        batch_size: examples of each.

    Raises:
        SimjaxError: there are not so many examples that share no text.
    """
    batches = _Batches(texts, batch_size)
    waiting = np.empty(0, order.dtype)
    taken = 0
    result = []
    for number in range(num_batches):
        batches.begin(number)
        # What many batches in a row put back would be looked through for each of them.
        head, tail = waiting[: 4 * batch_size], waiting[4 * batch_size :]
        left = batches.take(head)
        while batches.missing and taken < len(order):
            fresh = order[taken : taken + batches.missing]
            taken += len(fresh)
            left = np.concatenate([left, batches.take(fresh)])
        if batches.missing:
            tail = batches.take(tail)
        if batches.missing:
            begin = number * batch_size
            batches.take(np.concatenate([order[begin:], order[:begin]]))
        if batches.missing:
            raise SimjaxError(
                f"data.no_duplicates: no batch of {batch_size} examples that share no text was "
                f"found, the largest has {batch_size - batches.missing}: lower data.batch_size"
            )
        waiting = np.concatenate([tail, left])
        result.append(batches.chosen())
    return np.stack(result)


class _Batches:
    """The batch that is being filled, and which texts it has."""

    def __init__(self, texts: Int[np.ndarray, "N V"], batch_size: int) -> None:
        self._size = batch_size
        # Absent texts share the last number, which nobody owns.
        self._absent = int(texts.max()) + 1
        self._texts = np.where(texts < 0, self._absent, texts)
        self._batch_of = np.full(self._absent + 1, -1, np.int64)
        self._owner = np.zeros(self._absent + 1, np.int64)
        self._number = -1
        self._chosen: list[np.ndarray] = []
        self.missing = 0
        """Examples that the batch lacks."""

    def begin(self, number: int) -> None:
        """Start on an empty batch."""
        self._number, self._chosen, self.missing = number, [], self._size

    def take(self, candidates: Int[np.ndarray, "n"]) -> Int[np.ndarray, "m"]:
        """Add the candidates that fit, as long as any are missing; gives those left over."""
        kept = np.ones(len(candidates), bool)  # not taken
        open_ = np.arange(len(candidates))
        while self.missing and len(open_):
            texts = self._texts[candidates[open_]]
            free = (self._batch_of[texts] != self._number).all(axis=1)
            open_, texts = open_[free], texts[free]
            places = np.broadcast_to(open_[:, None], texts.shape)
            self._owner[texts] = len(candidates)
            np.minimum.at(self._owner, texts.ravel(), places.ravel())
            owns = ((self._owner[texts] == places) | (texts == self._absent)).all(axis=1)
            found = np.flatnonzero(owns)[: self.missing]
            self._batch_of[texts[found]] = self._number
            self._batch_of[self._absent] = -1
            kept[open_[found]] = False
            self._chosen.append(candidates[open_[found]])
            self.missing -= len(found)
            open_ = np.delete(open_, found)
        return candidates[kept]

    def chosen(self) -> Int[np.ndarray, "batch_size"]:
        """The batch."""
        return np.concatenate(self._chosen)
