"""Arrays that stay on the disk: written end to end, and read without keeping what was read.

The pages of a memory map that were read count as the process's memory until something needs it
more. Here they are let go of at once, so that what is resident does not grow with the data set;
the system still has them in its cache of files.
"""

from __future__ import annotations

import errno
import io
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int

WINDOW = 1 << 24
"""Bytes of a map that are resident at a time."""


class NpyWriter:
    """Writes a `.npy` file row by row, as many as come."""

    def __init__(self, path: Path, dtype: Any, columns: int | None = None) -> None:
        """Open it, for rows of one number or of `columns` numbers each."""
        self._dtype = np.dtype(dtype)
        self._columns = columns
        self._file = path.open("wb")
        self.rows = 0
        """Written so far."""
        self._write_head()

    def append(self, values: Any) -> None:
        """Add rows behind the last one."""
        rows = np.asarray(values, self._dtype)
        self.rows += len(rows)
        write_values(self._file, rows)

    def _write_head(self) -> None:
        shape = (self.rows,) if self._columns is None else (self.rows, self._columns)
        head = io.BytesIO()
        # NumPy leaves room for any number of rows, so this is as long for all.
        np.lib.format.write_array_header_1_0(
            head, {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        )
        self._file.write(head.getvalue())

    def __enter__(self) -> NpyWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._file:
            self._file.seek(0)
            self._write_head()


def write_values(file: BinaryIO, values: np.ndarray) -> None:
    """Write the bytes of an array.

    `ndarray.tofile` says nothing of the last few kilobytes that a full disk does not take.

    Raises:
        OSError: the disk is full.
    """
    file.write(np.ascontiguousarray(values).data)


def create_array(path: Path, dtype: Any, rows: int) -> np.memmap:
    """A `.npy` file of zeros as a memory map that can be written to.

    Raises:
        OSError: the disk has no room for it. A map whose room is not taken beforehand would end
            the process by a signal then.
    """
    found: np.memmap = np.lib.format.open_memmap(path, "w+", dtype, (rows,))
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # cannot be asked for
                    raise
    return found


def open_array(path: Path) -> np.ndarray:
    """A `.npy` file as a memory map that is only read.

    Raises:
        OSError: there is no such file.
        ValueError: it is none.
    """
    return np.load(path, mmap_mode="r", allow_pickle=False)


def release(*maps: Any) -> None:
    """Let go of the pages of memory maps, what was written to them is not lost; arrays stay."""
    for values in maps:
        pages = getattr(values, "_mmap", None)
        if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
            pages.madvise(mmap.MADV_DONTNEED)


def slices(length: int, size: int) -> Iterator[slice]:
    """Consecutive slices of `size` numbers, the last one maybe shorter."""
    for begin in range(0, length, size):
        yield slice(begin, min(begin + size, length))


def gather(values: Any, indices: Int[np.ndarray, "*n"]) -> np.ndarray:
    """`values[indices]`, of which at most `WINDOW` bytes of a memory map are resident at a time.

    Args:
        values: an array, or what is indexed like one; memory maps are read in the order of their
            pages, whatever the order of the indices.
        indices: not negative.
    """
    if not isinstance(values, np.memmap) or values.nbytes <= WINDOW:
        return values[indices]
    flat = indices.reshape(-1)
    found = np.empty((len(flat), *values.shape[1:]), values.dtype)
    for places in _by_window(flat, values):
        found[places] = values[flat[places]]
        release(values)
    return found.reshape(*indices.shape, *values.shape[1:])


def put(values: np.memmap, indices: Int[np.ndarray, "n"], new: np.ndarray) -> None:
    """`values[indices] = new` in the same way; the map can be written to."""
    for places in _by_window(indices, values):
        values[indices[places]] = new[places]
        release(values)


def _by_window(indices: Int[np.ndarray, "n"], values: np.ndarray) -> Iterator[Any]:
    """Which of the indices lie in each window of a map, windows without any left out."""
    rows = max(1, WINDOW * len(values) // max(1, values.nbytes))
    if (indices[1:] >= indices[:-1]).all():
        order: np.ndarray | None = None
        ordered = indices
    else:
        order = np.argsort(indices, kind="stable")
        ordered = indices[order]
    begin = 0
    while begin < len(ordered):
        window_end = (int(ordered[begin]) // rows + 1) * rows
        end = int(np.searchsorted(ordered, window_end))
        yield slice(begin, end) if order is None else order[begin:end]
        begin = end
