"""SIGTERM ends a command as an interrupt does: what it had begun is cleared up, in one line."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from simjax.processes.arrivals import arrivals

STATUS = 128 + signal.SIGTERM
_SOON = 0.02
"""Seconds after which it is tried again to raise where the exception would be lost."""
_PATIENCE = 5.0
"""Seconds in which the main thread has to come to its end; a container is killed after ten."""


class Terminated(BaseException):
    """SIGTERM has come, as KeyboardInterrupt says of SIGINT."""

    def __init__(self) -> None:
        super().__init__("told to stop by SIGTERM")


@contextmanager
def terminable() -> Iterator[None]:
    """In the block SIGTERM raises `Terminated` in the main thread.

    By default the signal ends a process before it can say a word to the others of its run, and the
    first process of a container not at all. Nothing changes where it is ignored or handled already,
    nor outside of the main thread, which alone may handle signals. `simjax.train.signals` takes it
    over while training can save.

    A main thread that is still in the block some seconds later, inside of a compilation or a wait
    for other processes, is not waited for: the process ends with `STATUS`.
    """
    unhandled = os.name == "posix" and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not unhandled or threading.current_thread() is not threading.main_thread():
        yield
        return
    left, told, main = threading.Event(), False, threading.get_ident()

    def tell(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if told or left.is_set():  # a second one would interrupt the end itself
            return
        if _swallows(frame):
            threading.Thread(target=tell_again, daemon=True).start()
            return
        told = True
        raise Terminated

    def tell_again() -> None:
        if not left.wait(_SOON):
            signal.pthread_kill(main, signal.SIGTERM)

    def hear(arrived: bytes) -> None:
        if signal.SIGTERM in arrived and not left.is_set():
            _tell_others()
            # Training that can save may have taken the signal over meanwhile.
            if not left.wait(_PATIENCE) and signal.getsignal(signal.SIGTERM) is tell:
                _end()

    with arrivals(hear):
        signal.signal(signal.SIGTERM, tell)
        try:
            yield
        finally:
            left.set()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _swallows(frame: FrameType | None) -> bool:
    """Whether what is raised there is lost: in finalisers and what the collector calls."""
    while frame is not None:
        if frame.f_code.co_name in ("__del__", "_xla_gc_callback"):
            return True
        frame = frame.f_back
    return False


def _tell_others() -> None:
    start = sys.modules.get("simjax.processes.start")
    if start is not None:
        start.told_to_leave(str(Terminated()))


def _end() -> NoReturn:
    with suppress(OSError):  # whoever would have read it may be gone
        print(f"simjax: {Terminated()}", file=sys.stderr, flush=True)
    start = sys.modules.get("simjax.processes.start")
    if start is not None:
        start.leave(STATUS)
    os._exit(STATUS)
