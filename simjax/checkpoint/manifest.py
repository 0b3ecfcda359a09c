"""Checksums of a checkpoint's files: Orbax restores a flipped bit without a word."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from simjax.errors import SimjaxError

NAME = "simjax_sha256.json"
_PARTIAL = ".partial"


def write_json(path: Path, content: Any) -> None:
    """Writes ``content`` so that a reader sees the old file or the new one, never half of it."""
    partial = path.with_name(path.name + _PARTIAL)
    with partial.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write(folder: Path) -> None:
    """Records the SHA-256 of every file under ``folder``, in a file of that folder."""
    write_json(folder / NAME, _sums(folder, _files(folder)))


def verify(folder: Path) -> bool:
    """Compares the files of ``folder`` with their recorded sums.

    Returns:
        False when there are no sums (the process was killed just after the checkpoint was
        complete, before they were written), else True.

    Raises:
        SimjaxError: a file is missing or has changed, or the sums cannot be read.
    """
    path = folder / NAME
    if not path.exists():
        return False
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        recorded = {str(name): str(digest) for name, digest in recorded.items()}
    except (ValueError, AttributeError, OSError) as error:
        raise SimjaxError(f"{path}: the checksums cannot be read ({error})") from error
    for name in recorded:
        if not (folder / name).is_file():
            raise SimjaxError(f"{folder / name}: missing from the checkpoint")
    actual = _sums(folder, sorted(recorded))
    for name, digest in recorded.items():
        if actual[name] != digest:
            raise SimjaxError(f"{folder / name}: damaged, its SHA-256 is not the recorded one")
    return True


def _files(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if not name.startswith(NAME))


def _sums(folder: Path, names: list[str]) -> dict[str, str]:
    def digest(name: str) -> str:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    # Hashing releases the interpreter's lock, so threads read and hash side by side.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(names, pool.map(digest, names), strict=True))
