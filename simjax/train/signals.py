"""SIGTERM and SIGINT: the first asks the run to save and stop, a later one stops it at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import ExitStack
from types import FrameType

from simjax.processes.arrivals import arrivals

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SHOW_CURSOR = b"\x1b[?25h"
_TOGETHER = 1.0
"""Seconds in which several signals are one."""


class StopRequest:
    """While it stands, a first SIGTERM or SIGINT is kept as a wish; a context manager.

    A later one ends the process at once with status 128 + its number, even while the main thread
    is inside a long computation; but not within a second of the first, since whoever signals a
    process and then its group (GNU timeout does) means one signal by two. Outside of the main
    thread, which alone may handle signals, it does nothing and no wish ever comes. Handlers are
    put back on leaving.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        """Name of the first signal, such as SIGTERM; None while there was none."""
        self._first: float | None = None
        self._until_left = ExitStack()

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.name is not None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self
        with ExitStack() as stack:  # which is left if a signal comes before its handler stands
            stack.enter_context(arrivals(self._hear))
            for number in SIGNALS:
                old = signal.signal(number, self._note)
                # None: it was not set from Python, and cannot be put back from here.
                stack.callback(signal.signal, number, signal.SIG_DFL if old is None else old)
            self._until_left = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._until_left.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.name is None:
            self.name = signal.Signals(number).name

    def _hear(self, arrived: bytes) -> None:
        for number in arrived:
            if number not in SIGNALS:
                continue
            now = time.monotonic()
            if self._first is not None and now - self._first > _TOGETHER:
                _leave(128 + number)
            self._first = now if self._first is None else self._first
            self._note(number, None)


def _leave(status: int) -> None:
    for descriptor in (1, 2):
        if os.isatty(descriptor):  # a progress bar hides the cursor
            os.write(descriptor, _SHOW_CURSOR)
    os._exit(status)
