"""Several token stores as one: texts follow each other, equal texts share an id."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from simjax.data.disk_arrays import gather
from simjax.data.packing import Tokens
from simjax.data.token_store import TokenStore
from simjax.types import NO_TEXT


class JoinedTokens:
    """The tokens of several stores end to end, each left where it is on the disk."""

    def __init__(self, parts: Sequence[Tokens]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, indices: Int[np.ndarray, "n"], /) -> Int[np.ndarray, "n"]:
        part_of = np.searchsorted(self._ends, indices, side="right")
        found = np.empty(len(indices), np.int32)
        for number, part in enumerate(self._parts):
            here = part_of == number
            found[here] = gather(part, indices[here] - (self._ends[number] - len(part)))
        return found


def join(stores: Sequence[TokenStore]) -> TokenStore:
    """One store of the examples of all, those of the first store first.

    Ids are dense over the whole: a text that an earlier store has keeps the id that it has there.
    The classes of different stores are different ones, whatever they are called. Anchors,
    positives and hard negatives stand in columns of their own, as many as the store with the most
    of them needs.
    """
    if len(stores) == 1:
        return stores[0]
    ids, digests = _joined_ids(stores)
    positives = max(store.positives for store in stores)
    negatives = max(store.examples.shape[1] - 1 - store.positives for store in stores)
    texts = _starts([len(store.text_ids) for store in stores])
    classes = _starts([len(store.label_names) for store in stores])
    tokens = _starts([len(store.tokens) for store in stores])
    return TokenStore(
        tokens=JoinedTokens([store.tokens for store in stores]),
        offsets=np.concatenate(
            [
                [0],
                *(store.offsets[1:] + first for store, first in zip(stores, tokens, strict=True)),
            ]
        ),
        text_ids=ids,
        digests=digests,
        examples=np.concatenate(
            [
                _widened(store, positives, negatives, first)
                for store, first in zip(stores, texts, strict=True)
            ]
        ),
        labels=np.concatenate(
            [
                np.where(store.labels < 0, store.labels, store.labels + first)
                for store, first in zip(stores, classes, strict=True)
            ]
        ).astype(np.int32),
        scores=np.concatenate([store.scores for store in stores]),
        positives=positives,
        label_names=tuple(name for store in stores for name in store.label_names),
        skipped=sum(store.skipped for store in stores),
        repeated=sum(store.repeated for store in stores),
        fingerprint=hashlib.sha256(
            " ".join(store.fingerprint for store in stores).encode()
        ).hexdigest()[:32],
        sizes=tuple(size for store in stores for size in store.sizes),
    )


def _starts(sizes: Sequence[int]) -> list[int]:
    return [sum(sizes[:number]) for number in range(len(sizes))]


def _joined_ids(
    stores: Sequence[TokenStore],
) -> tuple[Int[np.ndarray, "texts"], np.ndarray]:
    """Dense ids of all texts, told apart by their digests, and the digest of each id."""
    digests = np.concatenate([store.digests for store in stores])
    # Equal digests stand together, the one of the earliest store first.
    order = np.lexsort((np.arange(len(digests)), digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    new = np.ones(len(order), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = order[new]  # of each distinct text, where it appears first
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    id_of = np.empty(len(order), np.int64)
    id_of[order] = rank[np.cumsum(new) - 1]
    begins = _starts([len(store.digests) for store in stores])
    ids = [id_of[begin + store.text_ids] for store, begin in zip(stores, begins, strict=True)]
    return np.concatenate(ids).astype(np.int32), digests[np.sort(first)]


def _widened(
    store: TokenStore, positives: int, negatives: int, first: int
) -> Int[np.ndarray, "N V"]:
    """A store's examples with so many columns, its texts counted from `first`."""
    examples = np.asarray(store.examples)
    wide = np.full((len(examples), 1 + positives + negatives), NO_TEXT, np.int32)
    own = 1 + store.positives
    wide[:, :own] = examples[:, :own]
    wide[:, 1 + positives : 1 + positives + examples.shape[1] - own] = examples[:, own:]
    return np.where(wide == NO_TEXT, NO_TEXT, wide + first).astype(np.int32)
