"""SIGTERM and SIGINT: the first asks the run to save and stop, a later one stops it at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

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
        self._old: dict[signal.Signals, Any] = {}
        self._old_wakeup = -1
        self._pipe: tuple[int, int] | None = None
        self._watcher: threading.Thread | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.name is not None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self
        # Python runs handlers between two bytecodes of the main thread, which may be minutes away
        # during a compilation. The wake-up pipe is written the moment a signal arrives, and a
        # thread reads it while the main thread computes.
        read, write = os.pipe()
        os.set_blocking(write, False)
        self._pipe = (read, write)
        self._watcher = threading.Thread(target=self._watch, args=(read,), daemon=True)
        self._watcher.start()
        self._old_wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in SIGNALS:
            self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pipe is None or self._watcher is None:
            return
        for number, handler in self._old.items():
            # None: it was not set from Python, and cannot be put back from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._old.clear()
        signal.set_wakeup_fd(self._old_wakeup)
        read, write = self._pipe
        os.close(write)  # the watcher reads the end and returns
        self._watcher.join()
        os.close(read)
        self._pipe = self._watcher = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.name is None:
            self.name = signal.Signals(number).name

    def _watch(self, read: int) -> None:
        first: float | None = None
        while arrived := os.read(read, 64):
            for number in arrived:
                if number not in SIGNALS:
                    continue  # other handlers of the process share the pipe
                now = time.monotonic()
                if first is not None and now - first > _TOGETHER:
                    _leave(128 + number)
                first = now if first is None else first
                self._note(number, None)


def _leave(status: int) -> None:
    for descriptor in (1, 2):
        if os.isatty(descriptor):  # a progress bar hides the cursor
            os.write(descriptor, _SHOW_CURSOR)
    os._exit(status)
