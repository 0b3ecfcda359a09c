"""What killed commands leave beside their target, and who clears it up."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from simjax.errors import SimjaxError
from simjax.processes import drafts

ROOT = Path(__file__).parents[2]

WRITES = """
import os, signal, sys
from pathlib import Path
from simjax.processes import drafts

target = Path(sys.argv[1])
replace, moves = os.replace, []

def die_before(move):
    def counted(source, destination):
        if len(moves) == move:
            os.kill(os.getpid(), signal.SIGKILL)
        moves.append(source)
        replace(source, destination)
    os.replace = counted

draft = drafts.draft_of(target)
draft.mkdir()
(draft / "marker").write_text("new")
if sys.argv[2] == "wait":
    print(draft.name, flush=True)
    sys.stdin.read()
else:
    die_before(int(sys.argv[2]))
    drafts.move_into_place(draft, target)
"""


def started(target: Path, move: object) -> subprocess.Popen[str]:
    """A process that writes `target` and is killed before that move, or waits with its draft."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITES, str(target), str(move)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def old(target: Path) -> Path:
    target.mkdir()
    (target / "marker").write_text("old")
    return target


@pytest.mark.parametrize(
    ("move", "there"), [(0, "old"), (1, "old"), (2, "new")], ids=["before", "between", "after"]
)
def test_a_killed_replacement_is_undone_or_completed(tmp_path, move, there):
    target = old(tmp_path / "my [1] index")
    process = started(target, move)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    assert target.exists() == (move != 1)
    drafts.recover(target)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert (target / "marker").read_text() == there


def test_a_draft_alone_is_removed_and_of_other_targets_stays(tmp_path):
    for name in ("index", "index2"):
        started(tmp_path / name, 0).communicate()
    drafts.recover(tmp_path / "index")
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".index2.partial-")


def test_what_is_being_written_stays(tmp_path):
    target = tmp_path / "index"
    process = started(target, "wait")
    name = process.stdout.readline().strip()
    drafts.recover(target)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    process.kill()
    process.communicate()
    drafts.recover(target)
    assert list(tmp_path.iterdir()) == []


def test_only_who_is_alone_clears_up_what_another_machine_has_left(tmp_path):
    (tmp_path / ".x.csv.partial-another-machine-1").write_text("half")
    (tmp_path / ".x.csv.partial-12").write_text("half")
    drafts.recover(tmp_path / "x.csv")
    assert len(list(tmp_path.iterdir())) == 2
    drafts.recover(tmp_path / "x.csv", alone=True)
    assert list(tmp_path.iterdir()) == []


def test_a_draft_of_a_namesake_is_removed(tmp_path):
    """In a container that is started again the command has the number that it had before."""
    drafts.draft_of(tmp_path / "x").mkdir()
    drafts.recover(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_in_its_place_is_no_replacement(tmp_path):
    old(tmp_path / f".x.old-{socket.gethostname()}-{os.getpid()}")
    (tmp_path / "x").mkdir()
    drafts.recover(tmp_path / "x")
    assert (tmp_path / "x" / "marker").read_text() == "old"


def test_a_replacement_that_fails_changes_nothing(tmp_path):
    target = old(tmp_path / "x")
    with pytest.raises(OSError, match="No such file"):
        drafts.move_into_place(tmp_path / "absent", target)
    assert (target / "marker").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_cannot_be_cleared_up_is_told(tmp_path):
    (tmp_path / "x").write_text("a file")
    old(tmp_path / f".x.old-{socket.gethostname()}-{os.getpid()}")
    with pytest.raises(SimjaxError, match=r"x: cannot be cleared up \(Not a directory\)"):
        drafts.recover(tmp_path / "x")
