"""Locks on files, which end with the process that holds them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from simjax.errors import SimjaxError

_PAUSE = 0.2
"""Seconds between two tries."""
_PATIENCE = 5.0
"""Seconds after which it is told that there is something to wait for."""


def acquired(file: int, *, absent: Callable[[str], object] = lambda why: None) -> bool:
    """Takes the lock of an open file without waiting; False if another process has it.

    Args:
        file: Descriptor.
        absent: Told why where the file system or the platform has no locks, and there is none.
    """
    try:
        import fcntl
    except ImportError:
        absent("not on this platform")
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        absent(str(error.strerror))
    return True


@contextmanager
def waited_for(path: Path, waiting: Callable[[Path], None]) -> Iterator[None]:
    """Holds the lock of a file of its own, however long another process has it.

    Args:
        path: The file.
        waiting: Told once, if it takes more than a moment.

    Raises:
        SimjaxError: The file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise SimjaxError(f"{path}: cannot be written ({error.strerror})") from error
    with file:
        start = time.monotonic()
        told = False
        while not acquired(file.fileno()):
            if not told and time.monotonic() - start > _PATIENCE:
                told = True
                waiting(path)
            time.sleep(_PAUSE)
        yield
