"""Which of many texts are equal: told by digests on the disk, with little memory.

Digests are shared out to parts by their value, so that equal ones meet in one part, and each part
is sorted by itself.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, UInt64

from simjax.data.disk_arrays import (
    NpyWriter,
    create_array,
    gather,
    open_array,
    put,
    release,
    slices,
    write_values,
)
from simjax.errors import SimjaxError

PART = 1 << 17
"""Digests that are sorted at a time."""
MOST_PARTS = 256
"""Files that are open at the same time."""
MOST_TEXTS = 2**31 - 1
"""Texts of a store, which are numbered in 32 bits."""
_RECORD = np.dtype([("digest", np.uint64, 2), ("place", np.int32)])


def check_count(texts: int, where: str) -> None:
    """Refuse more texts than have numbers.

    Raises:
        SimjaxError: there are more than `MOST_TEXTS`.
    """
    if texts > MOST_TEXTS:
        raise SimjaxError(f"{where}: more than {MOST_TEXTS:,} texts; take a part of them")


def first_places(digests: UInt64[np.ndarray, "n 2"], scratch: Path) -> Int[np.ndarray, "n"]:
    """Of each digest, the place at which an equal one stands first.

    Args:
        digests: a memory map; at most `MOST_TEXTS`.
        scratch: a folder for the result, which is a memory map as well, and for what is in between.
    """
    count = len(digests)
    found = create_array(scratch / "first.npy", np.int32, count)
    parts = min(MOST_PARTS, -(-count // PART))
    paths = [scratch / f"part{number}.bin" for number in range(parts)]
    files = [path.open("wb") for path in paths]
    try:
        for run in slices(count, PART):
            records = np.empty(run.stop - run.start, _RECORD)
            records["digest"] = digests[run]
            records["place"] = np.arange(run.start, run.stop)
            release(digests)
            part = records["digest"][:, 0] % np.uint64(parts)
            order = np.argsort(part, kind="stable")
            cuts = np.searchsorted(part[order], np.arange(1, parts, dtype=np.uint64))
            for file, own in zip(files, np.split(records[order], cuts), strict=True):
                write_values(file, own)
    finally:
        for file in files:
            file.close()
    for path in paths:
        records = np.fromfile(path, _RECORD)
        path.unlink()
        put(found, records["place"], _first_of_equal(records))
    return found


def _first_of_equal(records: np.ndarray) -> Int[np.ndarray, "n"]:
    """Of records in the order of their places, the place of the first with the same digest."""
    digests, places = records["digest"], records["place"]
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: places ascend among equals
    ordered = digests[order]
    new = np.ones(len(order), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.empty_like(places)
    first[order] = places[order[new]][np.cumsum(new) - 1]
    return first


def repeated(digests: UInt64[np.ndarray, "n 2"], scratch: Path) -> Bool[np.ndarray, "n"]:
    """Whether an equal digest stands before each; arguments as of `first_places`."""
    first = first_places(digests, scratch)
    found = np.empty(len(first), bool)
    for run in slices(len(first), PART):
        found[run] = first[run] != np.arange(run.start, run.stop)
        release(first)
    return found


def number_texts(digests: Path, ids: Path, distinct: Path, scratch: Path) -> None:
    """Dense ids of texts by first appearance.

    Args:
        digests: the file of the digest of each text.
        ids: the file to be written, of each text's id.
        distinct: the file to be written, of each id's digest.
        scratch: a folder for what is in between.
    """
    given = open_array(digests)
    first = first_places(given, scratch)
    numbers = create_array(ids, np.int32, len(given))
    with NpyWriter(distinct, np.uint64, 2) as writer:
        for run in slices(len(given), PART):
            places = np.array(first[run])
            new = places == np.arange(run.start, run.stop)
            own = np.empty(len(places), np.int32)
            own[new] = writer.rows + np.arange(np.count_nonzero(new))
            earlier = places < run.start
            own[earlier] = gather(numbers, places[earlier])
            rest = ~new & ~earlier
            own[rest] = own[places[rest] - run.start]
            numbers[run] = own
            writer.append(given[run][new])
            release(given, first, numbers)
