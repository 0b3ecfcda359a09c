from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.checkpoint import manifest
from simjax.checkpoint.manager import Checkpoints
from simjax.errors import SimjaxError

TARGET = {"x": jnp.zeros((32, 8)), "n": jnp.int32(0)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the complete steps 1 and 2."""
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            state = {"x": jax.random.normal(jax.random.key(step), (32, 8)), "n": jnp.int32(step)}
            checkpoints.save(step, state, {"next_index": step})
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def files_of(step):
    return sorted(path for path in step.rglob("*") if path.is_file())


def test_the_sums_cover_every_file(folder):
    recorded = json.loads((folder / "2" / manifest.NAME).read_text())
    names = {path.relative_to(folder / "2").as_posix() for path in files_of(folder / "2")}
    assert set(recorded) == names - {manifest.NAME} and len(recorded) >= 5
    tool = subprocess.run(
        ["sha256sum", *sorted(recorded)], cwd=folder / "2", capture_output=True, check=True
    )
    assert tool.stdout.decode().split()[::2] == [recorded[name] for name in sorted(recorded)]


def test_a_flipped_bit_in_any_file_is_noticed(folder):
    for path in files_of(folder / "2"):
        original = path.read_bytes()
        damaged = bytearray(original or b"\0")
        damaged[len(damaged) // 2] ^= 0x04
        path.write_bytes(damaged)
        with pytest.raises(SimjaxError) as caught:
            Checkpoints(folder).restore(2, TARGET)
        if path.name != manifest.NAME:
            assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        path.write_bytes(original)
    restored, _ = Checkpoints(folder).restore(2, TARGET)
    assert restored["n"] == 2


def test_a_missing_file_is_noticed_and_the_way_out_named(folder):
    for path in files_of(folder / "2"):
        if path.name == manifest.NAME:
            continue
        kept = path.rename(folder / "aside")
        checkpoints = Checkpoints(folder)
        assert checkpoints.latest() == 2  # not passed over in silence
        with pytest.raises(SimjaxError, match=f"{path}: missing.*delete .*2 to go back to step 1"):
            checkpoints.restore(2, TARGET)
        kept.rename(path)


def test_without_sums_a_step_can_still_be_used(folder):
    (folder / "2" / manifest.NAME).unlink()
    restored, data_state = Checkpoints(folder).restore(2, TARGET)
    assert restored["n"] == 2 and data_state == {"next_index": 2}


def test_without_sums_damage_that_orbax_notices_is_one_line(folder):
    (folder / "2" / manifest.NAME).unlink()
    for path in (folder / "2" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(SimjaxError, match="2: cannot be read") as caught:
        Checkpoints(folder).restore(2, TARGET)
    assert "\n" not in str(caught.value)


def test_leftovers_are_no_steps_and_are_removed(folder):
    half = folder / "3.orbax-checkpoint-tmp"
    shutil.copytree(folder / "2", half)
    doomed = folder / "1.discarded"
    (folder / "1").rename(doomed)
    (folder / "4").mkdir()
    (folder / "notes").mkdir()
    assert Checkpoints(folder, read_only=True).steps() == [2]
    assert half.exists() and doomed.exists()  # perhaps another process is writing them
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [2] and checkpoints.latest() == 2
        assert not half.exists() and not doomed.exists()
        assert (folder / "notes").exists()
        checkpoints.save(4, TARGET, {})  # the empty folder is not in the way
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4]


KILLED = """
import os, pathlib, signal, sys, time
import jax, jax.numpy as jnp
from simjax.checkpoint.manager import Checkpoints

folder = pathlib.Path(sys.argv[1])
checkpoints = Checkpoints(folder)
checkpoints.save(1, {"x": jnp.arange(8.0)}, {"next_index": 1})
checkpoints.wait()
big = {"x": jax.random.normal(jax.random.key(0), (48, 1024, 1024))}
big["x"].block_until_ready()
checkpoints.save(2, big, {"next_index": 2})
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    if any("2." in path.as_posix() and path.is_file() for path in folder.rglob("*")):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.faults
def test_a_save_cut_off_by_sigkill_is_never_picked_up(tmp_path):
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        timeout=120,
    )
    assert child.returncode == -signal.SIGKILL
    left = [path for path in tmp_path.iterdir() if path.name.startswith("2")]
    assert left and all(path.name != "2" for path in left), "the save was not cut off half-way"
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        assert not any(path.exists() for path in left)
        restored, data_state = checkpoints.restore(1, {"x": jnp.zeros(8)})
        np.testing.assert_array_equal(np.asarray(restored["x"]), np.arange(8.0, dtype=np.float32))
        assert data_state == {"next_index": 1}
        checkpoints.save(2, {"x": jnp.ones(8)}, {})
    assert Checkpoints(tmp_path).steps() == [1, 2]
