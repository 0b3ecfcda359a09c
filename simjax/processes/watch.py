"""A watch over the other processes, so that one that is gone ends all of them, by name.

Each process says once a second that it is there, and looks whether the others have said so. A
process that has failed leaves its last words, which the others find within a second, and pass on
as they are when they leave in turn. Time is counted in looks: no two clocks are compared, and one
who slept blames nobody.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from jax.errors import JaxRuntimeError

from simjax.processes.board import Board
from simjax.processes.roll_call import name

_LOOK = 1.0
"""Seconds between two looks, for up to so many processes:"""
_PROCESSES = 64
_SUSPICIOUS = 5.0
"""Seconds of silence that count, once a computation together has failed."""


class Watch:
    """Looks after the processes of a run; ends this one when another is gone."""

    def __init__(
        self,
        board: Board,
        timeout: float,
        *,
        look: float | None = None,
        end: Callable[[str], object] | None = None,
    ) -> None:
        """Prepares the watch.

        Args:
            board: Where processes speak.
            timeout: Seconds of silence after which a process counts as gone.
            look: Seconds between two looks; by default one, more where there are many processes.
            end: Called with a sentence when another process is gone; by default it is printed
                and the process ends with status 1.
        """
        self.board = board
        self.timeout = timeout
        usual = _LOOK * max(1.0, board.count / _PROCESSES)
        self.look = min(usual, timeout / 4) if look is None else look
        self._end = end or self._print_and_leave
        self._stopped = threading.Event()
        self._judging = True
        self._lock = threading.Lock()
        self._hosts: dict[int, str] = {}
        self._beats: dict[int, str] = {}
        self._silent = {index: 0.0 for index in range(board.count)}
        self._unanswered = 0.0
        self._words: dict[int, str] = {}
        self._threads = [
            threading.Thread(target=work, name=f"simjax-{work.__name__}", daemon=True)
            for work in (self._talk, self._judge)
        ]

    def start(self) -> None:
        """Begins to speak and to look."""
        self.board.tell("host", _me())
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the watch: from here on, others may leave."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(2 * self.look)

    def has_failed(self, text: str) -> None:
        """Lets the others know that this process leaves, and why."""
        self.last_words(
            f"{name(self.board.process, {self.board.process: _me()})} has failed: {text}"
        )

    def last_words(self, told: str) -> None:
        """Lets the others know who is gone, and does not wait long for process 0.

        From here on it is this process that says why it ends, and not the watch.

        Args:
            told: A sentence on this process or another one, which is told by all alike.
        """
        self._judging = False
        _briefly(lambda: self.board.tell("words", told), seconds=3 * self.look)

    def linger(self) -> None:
        """On process 0, whose end ends the board: waits a little for the others to have read."""
        if self.board.process != 0:
            return
        deadline = time.monotonic() + _SUSPICIOUS + 3 * self.look
        while time.monotonic() < deadline:
            with self._lock:
                waiting = [
                    index
                    for index, silent in self._silent.items()
                    if index not in self._words and silent < _SUSPICIOUS and index != 0
                ]
            if not waiting:
                return
            time.sleep(self.look / 5)

    def culprit(self) -> str | None:
        """After a failed computation: which process it was, or None if all are there.

        Waits for that long enough to hear last words, or to notice silence; in looks as well, which
        take longer where processors are busy.
        """
        limit = min(_SUSPICIOUS, self.timeout)
        for _ in range(5 * (math.ceil(limit / self.look) + 3)):
            told = self._gone(limit)
            if told is not None:
                return told
            time.sleep(self.look / 5)
        return None

    def _talk(self) -> None:
        beat = 0
        while not self._stopped.wait(self.look if beat else 0.0):
            beat += 1
            try:
                self.board.tell("beat", str(beat))
                self._note(self.board.heard("beat"), self.board.heard("words"))
                if len(self._hosts) < self.board.count:
                    self._hosts = self.board.heard("host")
            except JaxRuntimeError:
                continue  # process 0 does not answer, which is what `_judge` counts

    def _note(self, beats: dict[int, str], words: dict[int, str]) -> None:
        with self._lock:
            self._unanswered = 0.0
            for index in self._silent:
                moved = beats.get(index) != self._beats.get(index)
                self._silent[index] = 0.0 if moved else self._silent[index] + self.look
            self._beats = beats
            self._words = words

    def _judge(self) -> None:
        while not self._stopped.wait(self.look):
            with self._lock:
                self._unanswered += self.look
            told = self._gone(self.timeout)
            if told is not None and self._judging and not self._stopped.is_set():
                self._end(told)
                return

    def _gone(self, limit: float) -> str | None:
        """The process that has failed, or that has been silent for longer than a limit."""
        me = self.board.process
        with self._lock:
            for index, told in sorted(self._words.items()):
                if index != me:
                    return told
            if me != 0 and self._unanswered > limit:
                silent, who = self._unanswered, 0
            else:
                silent, who = max(
                    (silent, index) for index, silent in self._silent.items() if index != me
                )
        if silent <= limit:
            return None
        told = f"{name(who, self._hosts)} has not been heard of for {silent:.0f} seconds: "
        return told + "it was killed, stands still, or is cut off from the network"

    def _print_and_leave(self, told: str) -> NoReturn:
        with suppress(OSError):  # whoever would have read it may be gone as well
            print(f"simjax: {gone_on(told)}", file=sys.stderr, flush=True)
        self.last_words(told)
        self.linger()
        os._exit(1)


def _me() -> str:
    return f"{socket.gethostname()}, pid {os.getpid()}"


def gone_on(told: str) -> str:
    """A sentence on a process that is gone, and what to do."""
    return (
        f"{told}; this process ends as well; the same command goes on from the last checkpoint, if "
        "there is one"
    )


def _briefly(call: Callable[[], object], *, seconds: float) -> None:
    """Calls something that may fail or not return, and waits no longer than that for it."""

    def work() -> None:
        try:
            call()
        except JaxRuntimeError:
            return  # there is nobody left to tell

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
