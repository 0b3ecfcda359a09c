"""The torture at its shortest; `make torture` is the whole of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.multiprocess
@pytest.mark.parametrize(("processes", "kills"), [(1, 4), (2, 3)])
def test_a_run_that_is_killed_again_and_again(processes, kills, tmp_path):
    command = [sys.executable, "-m", "tests.torture.torment", "--epochs", "8"]
    done = subprocess.run(
        [*command, "--processes", str(processes), "--kills", str(kills)],
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"survived {kills} kills of {processes} processes" in done.stdout
    assert not list(tmp_path.iterdir())
