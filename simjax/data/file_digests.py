"""What a file holds, as a hash that is taken once: large files are not read anew at each start."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

LARGE = 1 << 20
"""Bytes from which on a file's hash is remembered; less is hashed as fast as remembered."""
SETTLED = 2_000_000_000
"""Nanoseconds since a file's last change, after which a further one shows in its times."""
_SIZE = 2
"""Its place in a state, before the times."""


def content_digest(path: Path, cache: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits.

    That of a large file is kept in `cache / "digests"` and holds as long as the file's place on
    its disk, size and times (that of the last change of any kind among them) are the same.

    Args:
        path: the file.
        cache: a folder, which need not be there.

    Raises:
        OSError: the file cannot be read.
    """
    before = _state(path)
    if before[_SIZE] < LARGE:
        return _hashed(path)
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    note = cache / "digests" / f"{name}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["state"] == before and isinstance(known["sha256"], str):
            return known["sha256"]
    digest = _hashed(path)
    if _state(path) == before and time.time_ns() - max(before[-2:]) > SETTLED:
        with suppress(OSError):  # it is taken again then
            note.parent.mkdir(parents=True, exist_ok=True)
            # One name for all: what another process writes there at this time is as true.
            draft = note.with_suffix(".tmp")
            draft.write_text(json.dumps({"state": before, "sha256": digest}), encoding="utf-8")
            draft.replace(note)
    return digest


def times(path: Path) -> list[int]:
    """Size and times of a file, of which any change while it is read changes one.

    Raises:
        OSError: there is no such file.
    """
    return _state(path)[_SIZE:]


def _state(path: Path) -> list[int]:
    found = os.stat(path)
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _hashed(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
