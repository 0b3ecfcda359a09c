"""What one process writes and others read: a network file system shows it late."""

from __future__ import annotations

import time
from collections.abc import Callable

_STALE = 90.0
"""Seconds after which a network file system shows what another machine has written."""
_PAUSE = 0.2
"""Seconds between two looks."""


def seen(look: Callable[[], bool]) -> bool:
    """Waits until this process sees what another one has written.

    Args:
        look: Whether it is there.

    Returns:
        False if it still is not, so that the folder is none that both share.
    """
    deadline = time.monotonic() + _STALE
    while not (there := look()) and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    return there
