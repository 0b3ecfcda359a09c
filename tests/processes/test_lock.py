"""Locks on files that their holders remove."""

import threading
import time
from pathlib import Path

import pytest

from simjax.errors import SimjaxError
from simjax.processes import lock


def enter(path: Path, entered: threading.Event, leave: threading.Event) -> threading.Thread:
    def work() -> None:
        with lock.waited_for(path, lambda path: None):
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_one_at_a_time_and_no_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.lock"
    entered, leave = threading.Event(), threading.Event()
    leave.set()
    with lock.waited_for(path, lambda path: None) as held:
        assert held
        thread = enter(path, entered, leave)
        assert not entered.wait(0.5)
    assert entered.wait(30)
    thread.join()
    assert list(path.parent.iterdir()) == []


def test_who_waited_for_a_file_that_was_removed_waits_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    entered, leave = threading.Event(), threading.Event()
    leave.set()
    first = path.open("w")
    assert lock.tried(first.fileno()) == "held"
    thread = enter(path, entered, leave)
    time.sleep(0.3)
    path.unlink()
    with path.open("w") as second:
        assert lock.tried(second.fileno()) == "held"
        first.close()
        assert not entered.wait(0.8)
    assert entered.wait(30)
    thread.join()


def test_waiting_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_PATIENCE", 0.0)
    monkeypatch.setattr(lock, "_PAUSE", 0.01)
    told: list[Path] = []
    path = tmp_path / "x.lock"
    with path.open("w") as other:
        assert lock.tried(other.fileno()) == "held"
        assert lock.tried(other.fileno()) == "held"

        def stop(path: Path) -> None:
            told.append(path)
            threading.Timer(0.2, other.close).start()

        with lock.waited_for(path, stop):
            pass
    assert told == [path]


def test_where_there_are_no_locks_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with lock.waited_for(tmp_path / "x.lock", lambda path: None) as held:
        assert not held


def test_what_killed_holders_have_left_is_removed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, held = tmp_path / "left.lock", tmp_path / "held.lock"
    left.touch()
    with lock.waited_for(held, lambda path: None):
        for path in (left, held, tmp_path / "none" / "x.lock"):
            lock.remove_left(path)
        assert list(tmp_path.iterdir()) == [held]
        left.touch()
        monkeypatch.setattr(lock, "tried", lambda file: "none")
        lock.remove_left(left)
        assert left.exists()


def test_a_place_where_no_file_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with (
        pytest.raises(SimjaxError, match=r"taken/x\.lock: cannot be written"),
        lock.waited_for(tmp_path / "taken" / "x.lock", lambda path: None),
    ):
        pass
