"""The run folder where several processes share it, or do not, or where nothing can be locked."""

from __future__ import annotations

import errno
import fcntl
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from simjax.processes import shared_folder
from simjax.processes.roll_call import Disagreement
from simjax.train import folder
from tests.processes.store import of_each


@pytest.fixture
def processes(monkeypatch):
    """Makes threads think that they are processes; each says its number first."""
    mine = threading.local()
    count = 3
    monkeypatch.setattr(
        folder,
        "jax",
        SimpleNamespace(process_index=lambda: mine.index, process_count=lambda: count),
    )

    def run(where: list[Path]) -> list[BaseException | None]:
        def call(index: int) -> None:
            mine.index = index
            with folder.locked(folder.open_folder(str(where[index]))):
                folder.check_shared(where[index])

        return of_each(count, call, monkeypatch)

    return run


def test_a_folder_that_all_see(processes, tmp_path):
    assert processes([tmp_path / "run"] * 3) == [None] * 3
    first = (tmp_path / "run" / folder.MARK).read_text()
    assert processes([tmp_path / "run"] * 3) == [None] * 3
    # What an earlier start has left on a disk of its own does not look like this one's.
    assert (tmp_path / "run" / folder.MARK).read_text() != first
    assert [path.name for path in (tmp_path / "run").iterdir()] == [folder.MARK]


def test_a_folder_that_is_another_one_on_some_hosts_is_told_by_all(
    processes, tmp_path, monkeypatch
):
    monkeypatch.setattr(shared_folder, "_STALE", 0.2)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / folder.MARK).write_text("of another start\n")
    raised = processes([tmp_path / "run", tmp_path / "own", tmp_path / "more"])
    assert all(isinstance(error, Disagreement) for error in raised)
    for name, error in zip(("run", "own", "more"), raised, strict=True):
        assert str(error) == (
            f"{tmp_path / name}: what process 0 writes there is not seen by process 1, process 2; "
            "`output` has to lie where all processes see it"
        )


def test_a_network_file_system_that_is_late_is_waited_for(processes, tmp_path, monkeypatch):
    real, looks = folder._read, []

    def late(path: Path) -> str:
        looks.append(path)
        return real(path) if len(looks) > 12 else ""

    def first(path: Path) -> str:
        return real(path) if folder.jax.process_index() == 0 else late(path)

    monkeypatch.setattr(folder, "_read", first)
    monkeypatch.setattr(shared_folder, "_PAUSE", 0.01)
    assert processes([tmp_path / "run"] * 3) == [None] * 3 and len(looks) > 12


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capfd):
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    with folder.locked(tmp_path):
        assert capfd.readouterr().err == ""
    monkeypatch.setattr(fcntl, "flock", flock)
    with folder.locked(tmp_path):
        told = capfd.readouterr().err
    assert told.startswith(f"simjax: {tmp_path}: there are no locks on this file system,")
    assert "do not start one" in told and told.count("\n") == 1
