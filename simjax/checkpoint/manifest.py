"""Checksums of a checkpoint's files: Orbax restores a flipped bit without a word."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from simjax.errors import SimjaxError

NAME = "simjax_sha256.json"
"""Written last: a folder that has it was complete once."""

PARTIAL = ".partial"
"""Ending of files that are being written."""


class Damaged(SimjaxError):
    """A checkpoint is not whole: something of it is missing or has changed."""


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` so that a reader sees the old file or the new one, never half of it.

    Raises:
        SimjaxError: it cannot be written; the old file stays, and nothing else is left.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise SimjaxError(f"{path}: cannot be written ({error.strerror})") from error


def write_json(path: Path, content: Any) -> None:
    """As `write_text`, of what JSON can hold."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def write(folder: Path) -> None:
    """Records the SHA-256 of every file under ``folder``, in a file of that folder."""
    write_json(folder / NAME, sums(folder, _files(folder)))


def add(folder: Path, name: str) -> None:
    """Records the SHA-256 of one more file of ``folder``, which was written after the others."""
    write_json(folder / NAME, read(folder) | sums(folder, [name]))


def verify(folder: Path) -> None:
    """Compares the files of ``folder`` with their recorded sums.

    Raises:
        Damaged: a file is missing or has changed, or there are no sums that can be read.
    """
    compare(folder, read(folder))


def read(folder: Path) -> dict[str, str]:
    """The recorded sums of the files of ``folder``, by their names in it.

    Raises:
        Damaged: there are none that can be read.
    """
    path = folder / NAME
    if not path.exists():
        if not folder.is_dir() or not any(folder.iterdir()):
            raise Damaged(f"{folder}: empty, no checkpoint")
        raise Damaged(f"{path}: missing, as of a save that was cut off")
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): str(digest) for name, digest in recorded.items()}
    except (ValueError, AttributeError, OSError) as error:
        raise Damaged(f"{path}: the checksums cannot be read ({error})") from error


def compare(folder: Path, recorded: Mapping[str, str]) -> None:
    """Compares files of ``folder`` with sums that are known from elsewhere.

    Raises:
        Damaged: a file is missing or has changed.
    """
    for name in recorded:
        if not (folder / name).is_file():
            raise Damaged(f"{folder / name}: missing from the checkpoint")
    try:
        actual = sums(folder, sorted(recorded))
    except OSError as error:  # a disk that fails says so only here
        raise Damaged(f"{error.filename or folder}: cannot be read ({error.strerror})") from error
    for name, digest in recorded.items():
        if actual[name] != digest:
            raise Damaged(f"{folder / name}: damaged, its SHA-256 is not the recorded one")


def _files(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if not name.startswith(NAME))


def sums(folder: Path, names: list[str]) -> dict[str, str]:
    """The SHA-256 of files of ``folder``, by their names in it."""

    def digest(name: str) -> str:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    # Hashing releases the interpreter's lock, so threads read and hash side by side.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(names, pool.map(digest, names), strict=True))
