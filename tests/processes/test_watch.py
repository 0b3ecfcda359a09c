"""Who is gone, found by looks at what the others have said."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from simjax.processes.watch import Watch
from tests.processes.store import Store

LOOK = 0.02


@contextmanager
def watches(
    store: Store, timeout: float, *, silent: int | None = None
) -> Iterator[tuple[list[Watch], list[str]]]:
    """Those of all processes but the silent one, and what each said at its end."""
    ends: list[str] = [""] * store.count

    def end(index: int):
        return lambda told: ends.__setitem__(index, told)

    found = [
        Watch(store.board(index), timeout, look=LOOK, end=end(index))
        for index in range(store.count)
    ]
    for index, watch in enumerate(found):
        if index != silent:
            watch.start()
    try:
        yield found, ends
    finally:
        for index, watch in enumerate(found):
            if index != silent:
                watch.stop()


def until(found) -> None:
    for _ in range(2000):
        if found():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to that")


def test_nobody_is_blamed_where_all_are_there():
    with watches(Store(3), timeout=1.0) as (_, ends):
        time.sleep(1.5)
        assert ends == ["", "", ""]


def test_a_silent_process_is_named_by_all_others():
    with watches(Store(3), timeout=0.6, silent=1) as (_, ends):
        until(lambda: ends[0] and ends[2])
    assert all("process 1 has not been heard of" in ends[index] for index in (0, 2))
    assert ends[1] == ""


def test_last_words_reach_the_others_with_the_name_of_who_said_them():
    with watches(Store(3), timeout=100.0) as (found, ends):
        until(lambda: len(found[0]._hosts) == 3)
        found[2].has_failed("no such file")
        until(lambda: ends[0] and ends[1])
    assert ends[0] == ends[1] and ends[2] == ""
    assert ends[0].startswith("process 2 (") and ends[0].endswith("has failed: no such file")


def test_words_are_passed_on_as_they_are():
    """Nobody takes one that ends because of another for the one that has failed."""
    with watches(Store(4), timeout=100.0) as (found, ends):
        until(lambda: all(len(watch._hosts) == 4 for watch in found))
        found[3].board.tell("words", "process 3 (here) has failed: why")
        until(lambda: ends[1])
        found[1].last_words(ends[1])
        until(lambda: all(ends[:3]))
    assert set(ends[:3]) == {"process 3 (here) has failed: why"}


def test_process_0_stays_until_the_others_have_heard():
    store = Store(3)
    with watches(store, timeout=100.0) as (found, _):
        until(lambda: len(found[0]._hosts) == 3)
        found[0].has_failed("why")
        thread = threading.Thread(target=found[0].linger)
        thread.start()
        # As long as three looks were too short for one that has no processor.
        time.sleep(5 * LOOK)
        assert thread.is_alive()
        for watch in found[1:]:
            until(lambda watch=watch: watch.board.heard("words"))
            watch.last_words("process 0 has failed: why")
        thread.join(30)
        assert not thread.is_alive()


def test_a_process_that_is_cut_off_blames_the_coordinator_and_is_blamed():
    store = Store(3)
    with watches(store, timeout=0.6) as (found, ends):
        until(lambda: len(found[0]._beats) == 3)
        store.answers[2] = False
        until(lambda: all(ends))
    assert "process 2 (" in ends[0] and "process 2 (" in ends[1]
    assert "process 0 (" in ends[2] and "cut off from the network" in ends[2]


def test_after_a_failed_computation_silence_counts_sooner_and_words_at_once():
    store = Store(2)
    with watches(store, timeout=0.5, silent=1) as (found, ends):
        assert "process 1 has not been heard of" in (found[0].culprit() or "")
    with watches(Store(2), timeout=4.0) as (found, ends):
        assert found[0].culprit() is None and ends == ["", ""]
        found[1].has_failed("a full disk")
        assert "has failed: a full disk" in (found[0].culprit() or "")


def test_words_are_not_waited_for_where_nobody_answers():
    store = Store(2)
    board = store.board(1)
    hang = threading.Event()
    watch = Watch(board, 10.0, look=LOOK, end=lambda told: None)
    object.__setattr__(board.client, "key_value_set", lambda *a, **k: hang.wait(60))
    watch.last_words("why")  # returns
    hang.set()


class Ended(BaseException):
    """What stands for the end of this process."""


def test_a_process_ends_though_nobody_reads_what_it_prints(monkeypatch):
    class Gone:
        def write(self, text):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

    statuses = []

    def end(status):
        statuses.append(status)
        raise Ended

    store = Store(2)
    watch = Watch(store.board(1), 1.0, look=LOOK)
    monkeypatch.setattr("sys.stderr", Gone())
    monkeypatch.setattr("os._exit", end)
    with pytest.raises(Ended):
        watch._end("process 0 has failed: no such file")
    monkeypatch.undo()
    assert statuses == [1]
    assert store.board(0).heard("words") == {1: "process 0 has failed: no such file"}
