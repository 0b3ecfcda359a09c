"""A lock on an open file, which ends with the process that holds it."""

from __future__ import annotations


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
