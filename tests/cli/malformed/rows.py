"""What a row of the table of malformed inputs says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Make = Callable[[Path], list[str]]
"""Writes the input into a folder and returns the command line that reads it."""


@dataclass(frozen=True)
class Row:
    """An input, and what the command that reads it does.

    Attributes:
        name: What is wrong with the input.
        make: Writes it.
        says: Parts of the one line of the error; `{}` is the folder of the input. For a command
            that succeeds, parts of what it prints.
        status: The exit status.
    """

    name: str
    make: Make
    says: tuple[str, ...]
    status: int = 1


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
