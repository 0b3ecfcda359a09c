"""The texts of an index, on disk: bytes end to end, and where each begins."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, overload

import numpy as np

from simjax.inference.formats import load_array

BYTES = "texts.bin"
OFFSETS = "texts.npy"
LINES = "lines.npy"


class TextWriter:
    """Appends texts to a folder, as a context that writes what is left at its end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO = (folder / BYTES).open("wb")
        self._offsets, self._lines = array("q", [0]), array("q")

    def add(self, text: str, line: int) -> None:
        """Append one, and the line that it was on."""
        content = text.encode("utf-8", "surrogatepass")
        self._file.write(content)
        self._offsets.append(self._offsets[-1] + len(content))
        self._lines.append(line)

    def __enter__(self) -> TextWriter:
        return self

    def __exit__(self, kind: object, *details: object) -> None:
        self._file.close()
        if kind is None:
            np.save(self._folder / OFFSETS, np.frombuffer(self._offsets, np.int64))
            np.save(self._folder / LINES, np.frombuffer(self._lines, np.int64))


class StoredTexts(Sequence[str]):
    """The texts of a folder, read as they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Open them.

        Raises:
            ValueError: The files do not fit each other.
            OSError: One is missing.
        """
        self._offsets = load_array(folder / OFFSETS)
        self.lines = load_array(folder / LINES)
        """Line of the corpus that each text was on, from 1."""
        size = (folder / BYTES).stat().st_size
        if len(self._offsets) != len(self.lines) + 1 or self._offsets[-1] != size:
            raise ValueError(f"{OFFSETS} does not fit {BYTES}")
        self._bytes = np.memmap(folder / BYTES, np.uint8, "r") if size else np.zeros(0, np.uint8)

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        places = range(len(self))
        if isinstance(row, slice):
            return [self._text(place) for place in places[row]]
        return self._text(places[row])

    def _text(self, row: int) -> str:
        begin, end = self._offsets[row], self._offsets[row + 1]
        return self._bytes[begin:end].tobytes().decode("utf-8", "surrogatepass")
