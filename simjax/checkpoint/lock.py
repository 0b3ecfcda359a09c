"""Locks on files, which end with the process that holds them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simjax.errors import SimjaxError

_PAUSE = 0.2
"""Seconds between two tries."""


def acquired(file: int) -> bool:
    """Takes the lock of an open file without waiting; False if another process has it.

    Where the file system or the platform has no locks, there is none.

    Args:
        file: Descriptor.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def waited_for(path: Path) -> Iterator[None]:
    """Holds the lock of a file of its own, however long another process has it.

    Raises:
        SimjaxError: The file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise SimjaxError(f"{path}: cannot be written ({error.strerror})") from error
    with file:
        while not acquired(file.fileno()):
            time.sleep(_PAUSE)
        yield
