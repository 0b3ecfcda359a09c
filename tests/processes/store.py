"""JAX's key-value store as threads of one process can have it."""

from __future__ import annotations

import threading
from collections import defaultdict

from jax.errors import JaxRuntimeError

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
