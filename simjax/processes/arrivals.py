"""Signals at the moment they arrive, whatever the main thread is in."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def arrivals(hear: Callable[[bytes], object]) -> Iterator[None]:
    """In the block calls `hear`, in a thread of its own, with the numbers of signals that arrive.

    Python runs handlers between two bytecodes of the main thread, which may be minutes away during
    a compilation. Its wake-up pipe is written the moment a signal arrives, and read here. It tells
    of all signals that have a handler in Python, those of others in the process too. Only the main
    thread can enter the block; the call that is under way on leaving is waited for.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)

    def watch() -> None:
        while arrived := os.read(read, 64):
            hear(arrived)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(write)  # the watcher reads the end and returns
        watcher.join()
        os.close(read)
