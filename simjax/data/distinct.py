"""Batches no two of whose examples share a text."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from simjax.errors import SimjaxError

_ROWS = 1 << 16
"""Examples that are Python integers at a time."""


def distinct_batches(
    order: Int[np.ndarray, "n"],
    texts: Int[np.ndarray, "N V"],
    num_batches: int,
    batch_size: int,
) -> Int[np.ndarray, "num_batches batch_size"]:
    """Deal examples out to batches so that no two of a batch share a text.

    In the order given, each goes into the first batch with room behind all batches that have one
    of its texts: one look at each example, however often a text comes back. What finds none is
    left out, and batches that are not full then repeat examples of the same order.

    Args:
        order: examples, rows of `texts`; at least `num_batches * batch_size`.
        texts: id of each text of each example, negative where there is none.
        num_batches: batches to make.
        batch_size: examples of each.

    Raises:
        SimjaxError: there are not so many examples that share no text.
    """
    batches: list[list[int]] = [[] for _ in range(num_batches)]
    first_with_room = _FirstWithRoom(num_batches)
    behind = [0] * (int(texts.max()) + 1)  # of each text, the batch behind the last that has it
    for begin in range(0, len(order), _ROWS):
        some = order[begin : begin + _ROWS]
        for example, own in zip(some.tolist(), texts[some].tolist(), strict=True):
            place = first_with_room(max(behind[text] if text >= 0 else 0 for text in own))
            if place == num_batches:
                continue
            batches[place].append(example)
            if len(batches[place]) == batch_size:
                first_with_room.fill(place)
            for text in own:
                if text >= 0:
                    behind[text] = place + 1
    for number, batch in enumerate(batches):
        if len(batch) < batch_size:
            _complete(batch, np.roll(order, -number * batch_size), texts, batch_size)
    return np.asarray(batches, order.dtype)


class _FirstWithRoom:
    """The first batch from some one on that is not full; their number if there is none."""

    def __init__(self, num_batches: int) -> None:
        # Of a full batch, one behind it that is nearer to the answer (Tarjan 1975).
        self._next = list(range(num_batches + 1))

    def __call__(self, batch: int) -> int:
        found = batch
        while self._next[found] != found:
            found = self._next[found]
        while self._next[batch] != found:
            self._next[batch], batch = found, self._next[batch]
        return found

    def fill(self, batch: int) -> None:
        """Never give this one any more."""
        self._next[batch] = batch + 1


def _complete(
    batch: list[int],
    candidates: Int[np.ndarray, "n"],
    texts: Int[np.ndarray, "N V"],
    batch_size: int,
) -> None:
    """Add the first candidates that share no text with the batch or each other."""
    taken = {text for own in texts[batch].tolist() for text in own if text >= 0}
    for begin in range(0, len(candidates), 4 * batch_size):
        some = candidates[begin : begin + 4 * batch_size]
        for example, row in zip(some.tolist(), texts[some].tolist(), strict=True):
            own = {text for text in row if text >= 0}
            if taken.isdisjoint(own):
                taken |= own
                batch.append(example)
                if len(batch) == batch_size:
                    return
    raise SimjaxError(
        f"data.no_duplicates: no batch of {batch_size} examples that share no text was "
        f"found, the largest has {len(batch)}: lower data.batch_size"
    )
