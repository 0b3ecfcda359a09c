"""The torture at its shortest, `make torture` is the whole of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    ("processes", "kills", "more"), [(1, 3, ()), (2, 2, ()), (1, 3, ("--mirror",))]
)
def test_a_run_that_is_killed_again_and_again(processes, kills, more, tmp_path):
    counts = ("--processes", str(processes), "--kills", str(kills), *more)
    told = survived(tmp_path, "tests.torture.torment", "--epochs", "8", *counts)
    assert f"survived {kills} kills of {processes} processes" in told


def test_a_run_of_a_system_that_is_killed(tmp_path):
    """One of two encoders; `tests/train/test_objectives.py` kills all of them at a chosen step."""
    told = survived(tmp_path, "tests.torture.systems", "tension")
    assert told.splitlines()[0].startswith("tension survived: step")
