"""Several token stores as one: texts follow each other, equal texts share an id."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from simjax.data.disk_arrays import WINDOW, NpyWriter, gather, open_array, release, slices
from simjax.data.numbering import check_count, number_texts
from simjax.data.packing import Tokens
from simjax.data.store_writer import finish
from simjax.data.token_store import TokenStore, stored
from simjax.types import NO_TEXT

_ROWS = 1 << 17
"""Rows of an array that are copied at a time."""


class JoinedTokens:
    """The tokens of several stores end to end, each left where it is on the disk."""

    def __init__(self, parts: Sequence[Tokens]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])
        # Parts that `gather` keeps, because each is small, may be many.
        self._large = sum(getattr(part, "nbytes", 0) for part in parts) > WINDOW

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, indices: Int[np.ndarray, "n"], /) -> Int[np.ndarray, "n"]:
        part_of = np.searchsorted(self._ends, indices, side="right")
        found = np.empty(len(indices), np.int32)
        for number, part in enumerate(self._parts):
            here = part_of == number
            found[here] = gather(part, indices[here] - (self._ends[number] - len(part)))
            if self._large:
                release(part)
        return found


def join(stores: Sequence[TokenStore], cache: Path) -> TokenStore:
    """One store of the examples of all, those of the first store first.

    Ids are dense over the whole: a text that an earlier store has keeps the id that it has there.
    Classes that recipes name (`Source.classes`) are the same in all stores; others are those of
    one store, whatever they are called. Anchors, positives and hard negatives stand in columns of
    their own, as many as the store with the most of them needs. All arrays but the tokens are
    written to a store of the cache, once.

    Raises:
        SimjaxError: the cache cannot be written, or they have too many texts together.
    """
    if len(stores) == 1:
        return stores[0]
    check_count(sum(len(store.text_ids) for store in stores), "data.sources")
    together = " ".join(store.fingerprint for store in stores)
    fingerprint = hashlib.sha256(together.encode()).hexdigest()[:32]
    tokens = JoinedTokens([store.tokens for store in stores])
    return stored(cache, fingerprint, lambda folder: _write(folder, stores, fingerprint), tokens)


def _write(folder: Path, stores: Sequence[TokenStore], fingerprint: str) -> None:
    positives = max(store.positives for store in stores)
    negatives = max(store.examples.shape[1] - 1 - store.positives for store in stores)
    texts = _starts([len(store.text_ids) for store in stores])
    label_names, classes = _classes(stores)
    tokens = _starts([len(store.tokens) for store in stores])
    with (
        NpyWriter(folder / "offsets.npy", np.int64) as offsets,
        NpyWriter(folder / "examples.npy", np.int32, 1 + positives + negatives) as examples,
        NpyWriter(folder / "labels.npy", np.int32) as labels,
        NpyWriter(folder / "scores.npy", np.float32) as scores,
    ):
        offsets.append([0])
        for store, text, class_, token in zip(stores, texts, classes, tokens, strict=True):
            for ends in _portions(store.offsets[1:]):
                offsets.append(ends + token)
            for rows in _portions(store.examples):
                examples.append(_widened(rows, store.positives, positives, negatives, text))
            for values in _portions(store.labels):
                labels.append(np.where(values < 0, values, class_[np.maximum(values, 0)]))
            for values in _portions(store.scores):
                scores.append(values)
    _write_ids(folder, stores)
    finish(
        folder,
        {
            "fingerprint": fingerprint,
            "positives": positives,
            "label_names": label_names,
            "skipped": sum(store.skipped for store in stores),
            "repeated": sum(store.repeated for store in stores),
            "sizes": [size for store in stores for size in store.sizes],
        },
    )


def _classes(stores: Sequence[TokenStore]) -> tuple[list[str], list[Int[np.ndarray, "C"]]]:
    """The names of all classes, and for each store the numbers that its own get."""
    names: list[str] = []
    number_of: dict[str, int] = {}
    numbers = []
    for store in stores:
        own = []
        for name in store.label_names:
            known = number_of.get(name) if store.classes_named else None
            if known is None:
                known = len(names)
                names.append(name)
                if store.classes_named:
                    number_of[name] = known
            own.append(known)
        numbers.append(np.asarray(own or [0], np.int32))
    return names, numbers


def _portions(values: np.ndarray) -> Iterator[np.ndarray]:
    for run in slices(len(values), _ROWS):
        yield np.asarray(values[run])
        release(values)


def _starts(sizes: Sequence[int]) -> list[int]:
    return [sum(sizes[:number]) for number in range(len(sizes))]


def _write_ids(folder: Path, stores: Sequence[TokenStore]) -> None:
    """Dense ids of all texts, told apart by their digests, and the digest of each id."""
    scratch = folder / "scratch"
    scratch.mkdir()
    with NpyWriter(scratch / "digests.npy", np.uint64, 2) as digests:
        for store in stores:
            for values in _portions(store.digests):
                digests.append(values)
    # Each store's ids are numbered anew, those of the first store first.
    number_texts(scratch / "digests.npy", scratch / "ids.npy", folder / "digests.npy", scratch)
    id_of = open_array(scratch / "ids.npy")
    begins = _starts([len(store.digests) for store in stores])
    with NpyWriter(folder / "text_ids.npy", np.int32) as ids:
        for store, begin in zip(stores, begins, strict=True):
            for values in _portions(store.text_ids):
                ids.append(gather(id_of, begin + values))
    shutil.rmtree(scratch)


def _widened(
    examples: Int[np.ndarray, "N v"], own_positives: int, positives: int, negatives: int, first: int
) -> Int[np.ndarray, "N V"]:
    """A store's examples with so many columns, its texts counted from `first`."""
    wide = np.full((len(examples), 1 + positives + negatives), NO_TEXT, np.int32)
    own = 1 + own_positives
    wide[:, :own] = examples[:, :own]
    wide[:, 1 + positives : 1 + positives + examples.shape[1] - own] = examples[:, own:]
    return np.where(wide == NO_TEXT, NO_TEXT, wide + first).astype(np.int32)
