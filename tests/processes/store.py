"""JAX's key-value store as threads of one process can have it."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from jax.errors import JaxRuntimeError

from simjax.processes import board, roll_call
from simjax.processes.board import Board


class Store:
    """Stands for the store on process 0; `answers` set to False cuts processes off."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.kept: dict[str, str] = {}
        self.answers = defaultdict(lambda: True)
        self._barriers: defaultdict[str, threading.Barrier] = defaultdict(
            lambda: threading.Barrier(count)
        )

    def board(self, process: int) -> Board:
        return Board(_Client(self, process), process, self.count)


class _Client:
    def __init__(self, store: Store, process: int) -> None:
        self._store, self._process = store, process

    def _check(self) -> None:
        if not self._store.answers[self._process]:
            raise JaxRuntimeError("UNAVAILABLE")

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        self._check()
        assert allow_overwrite or key not in self._store.kept
        self._store.kept[key] = value

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        self._check()
        return [(k, v) for k, v in list(self._store.kept.items()) if k.startswith(key)]

    def wait_at_barrier(self, name: str, timeout_in_ms: int) -> None:
        self._check()
        self._store._barriers[name].wait(timeout_in_ms / 1000)


class _FirstCalls(dict[str, Iterator[int]]):
    """Threads share the count of calls, which processes have each for itself."""

    def __missing__(self, key: str) -> Iterator[int]:
        return iter([0] * 100)


def of_each(
    count: int, call: Callable[[int], object], monkeypatch: pytest.MonkeyPatch
) -> list[BaseException | None]:
    """What the call of each process raises; a thread stands for a process."""
    store, mine = Store(count), threading.local()
    raised: list[BaseException | None] = [None] * count
    monkeypatch.setattr(board, "of_this_run", lambda: mine.board)
    monkeypatch.setattr(roll_call, "_calls", _FirstCalls())

    def work(index: int) -> None:
        mine.board = store.board(index)
        try:
            call(index)
        except BaseException as error:
            raised[index] = error

    threads: list[Any] = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return raised
