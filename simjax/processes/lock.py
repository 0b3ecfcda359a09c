"""Locks on files, which end with the process that holds them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from simjax.errors import SimjaxError

_PAUSE = 0.2
"""Seconds between two tries."""
_PATIENCE = 5.0
"""Seconds after which it is told that there is something to wait for."""


def tried(file: int) -> Literal["held", "taken", "none"]:
    """Tries to lock an open file, without waiting.

    Args:
        file: Descriptor.

    Returns:
        Whether it is held now, or another process has it, or the file system or the platform has
        no locks.
    """
    try:
        import fcntl
    except ImportError:
        return "none"
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "taken"
    except OSError:
        return "none"
    return "held"


def acquired(file: int) -> bool:
    """Takes the lock of an open file without waiting; False if another process has it.

    Where the file system or the platform has no locks, there is none.

    Args:
        file: Descriptor.
    """
    return tried(file) != "taken"


@contextmanager
def waited_for(path: Path, waiting: Callable[[Path], None]) -> Iterator[bool]:
    """Holds the lock of a file of its own, however long another process has it.

    The file is removed in the end. The block is told whether there is a lock at all.

    Args:
        path: The file.
        waiting: Told once, if it takes more than a moment.

    Raises:
        SimjaxError: The file cannot be made.
    """
    start = time.monotonic()
    told = False
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        except OSError as error:
            raise SimjaxError(
                f"{path}: cannot be written ({error.strerror}); choose another folder"
            ) from error
        with file:
            while not acquired(file.fileno()):
                if not told and time.monotonic() - start > _PATIENCE:
                    told = True
                    waiting(path)
                time.sleep(_PAUSE)
            if not _is_at(path, file.fileno()):
                continue  # who had it has removed the file, and another may lock a new one
            try:
                yield tried(file.fileno()) == "held"
            finally:
                with suppress(OSError):
                    path.unlink()
            return


def remove_left(path: Path) -> None:
    """Removes the file of a lock whose holder was killed; one that is held, or may be, stays."""
    with suppress(OSError), path.open("a") as file:
        if tried(file.fileno()) == "held" and _is_at(path, file.fileno()):
            path.unlink()


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False
