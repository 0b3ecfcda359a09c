"""The torture at its shortest, `make torture` is the whole of it; and a kill of every system."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.systems import SYSTEMS

pytestmark = [pytest.mark.slow, pytest.mark.faults]


def survived(folder: Path, *command: str) -> str:
    """What it says of a torture that leaves nothing behind."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(folder)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # What a copy to a mirror begins with lies in the system's folder for drafts.
    assert not [path for path in folder.iterdir() if not path.name.startswith("tmp")]
    return done.stdout


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("processes", "kills", "more"), [(1, 4, ()), (2, 3, ()), (1, 4, ("--mirror",))]
)
def test_a_run_that_is_killed_again_and_again(processes, kills, more, tmp_path):
    counts = ("--processes", str(processes), "--kills", str(kills), *more)
    told = survived(tmp_path, "tests.torture.torment", "--epochs", "8", *counts)
    assert f"survived {kills} kills of {processes} processes" in told


# Each call imports once for all its systems; they are shared out to two workers.
@pytest.mark.parametrize("first", [0, 1])
def test_a_run_of_every_system_that_is_killed(first, tmp_path):
    names = list(SYSTEMS)[first::2]
    told = survived(tmp_path, "tests.torture.systems", *names)
    assert [line.split()[0] for line in told.splitlines()] == names
