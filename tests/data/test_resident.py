"""Memory of data sets that are larger than what is to be held of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_indexing_and_batches_hold_little(tmp_path) -> None:
    """200,000 sentences in portions a 32nd of the usual; batches of a store of ten million."""
    command = [sys.executable, "-m", "tests.data.resident", "200000", str(tmp_path), "10000000"]
    done = subprocess.run([*command, "32"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    print(figures)
    assert 0 < figures["index"] < 16e6
    assert 0 < figures["index_distinct"] < 16e6
    assert 0 < figures["start"] < 100e6
    assert 0 < figures["batches"] < 100e6
