from __future__ import annotations

import errno
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


def largest(step):
    return max(files_of(step), key=lambda path: path.stat().st_size)


def flip_a_bit(step):
    path = largest(step)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return f"{path}: damaged"


def truncate(step):
    path = largest(step)
    os.truncate(path, path.stat().st_size - 1)
    return f"{path}: damaged"


def remove_a_file(step):
    path = largest(step)
    path.unlink()
    return f"{path}: missing from the checkpoint"


def empty(step):
    shutil.rmtree(step)
    step.mkdir()
    return f"{step}: empty, no checkpoint"


def put_a_file_there(step):
    shutil.rmtree(step)
    step.write_text("")
    return f"{step}: empty, no checkpoint"


def remove_the_marker(step):
    (step / manifest.NAME).unlink()
    return f"{step / manifest.NAME}: missing, as of a save that was cut off"


def remove_orbax_marker(step):
    (step / "_CHECKPOINT_METADATA").unlink()
    return f"{step / '_CHECKPOINT_METADATA'}: missing from the checkpoint"


def cut_the_sums(step):
    os.truncate(step / manifest.NAME, 40)
    return f"{step / manifest.NAME}: the checksums cannot be read"


def scramble_the_sums(step):
    (step / manifest.NAME).write_text("[1]")
    return f"{step / manifest.NAME}: the checksums cannot be read"


DAMAGE = [
    flip_a_bit,
    truncate,
    remove_a_file,
    empty,
    put_a_file_there,
    remove_the_marker,
    remove_orbax_marker,
    cut_the_sums,
    scramble_the_sums,
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_the_newest_good_step_taken(folder, damage):
    fault = damage(folder / "2")
    with Checkpoints(folder) as checkpoints:
        said = []
        checkpoints.check(said.append)
        (line,) = said
        assert line.startswith(f"checkpoint of step 2 left out: {fault}") and "\n" not in line
        assert checkpoints.steps() == [1] and checkpoints.latest() == 1
        assert (folder / "2").exists()  # nothing is deleted for being damaged
        restored, data_state = checkpoints.restore(1, TARGET)
        assert restored["n"] == 1 and data_state == {"next_index": 1}
        checkpoints.save(2, TARGET, {})  # the run comes to that step again
    said.clear()
    again = Checkpoints(folder)
    again.check(said.append)
    assert again.steps() == [1, 2] and not said
    assert again.restore(2, TARGET)[0]["n"] == 0


def test_a_damaged_best_step_is_not_the_best(folder):
    with Checkpoints(folder, best_metric="dev") as checkpoints:
        checkpoints.save(3, TARGET, {}, {"dev": 0.9})
        checkpoints.save(4, TARGET, {}, {"dev": 0.5})
        checkpoints.save(5, TARGET, {}, {"dev": 0.4})
        checkpoints.wait()
        assert checkpoints.steps() == [3, 4, 5]
    remove_orbax_marker(folder / "3")
    with Checkpoints(folder, best_metric="dev") as checkpoints:
        said = []
        checkpoints.check(said.append)
        assert len(said) == 1 and "step 3" in said[0]
        assert checkpoints.steps() == [4, 5] and checkpoints.best() == 4


def test_without_a_whole_step_nothing_starts_over_by_itself(folder):
    flip_a_bit(folder / "1")
    truncate(folder / "2")
    said = []
    message = f"{folder}: none of its checkpoints is whole .*delete {folder} to start over"
    with pytest.raises(SimjaxError, match=message):
        Checkpoints(folder).check(said.append)
    assert [line.split()[3] for line in said] == ["1", "2"]


def test_a_first_save_that_was_cut_off_is_no_run(folder):
    shutil.rmtree(folder / "1")
    remove_the_marker(folder / "2")
    said = []
    checkpoints = Checkpoints(folder)
    checkpoints.check(said.append)
    assert len(said) == 1 and checkpoints.latest() is None


def test_several_steps_without_their_sums_are_a_damaged_run(folder):
    empty(folder / "1")
    remove_the_marker(folder / "2")
    with pytest.raises(SimjaxError, match=f"{folder}: none of its checkpoints is whole"):
        Checkpoints(folder).check(lambda line: None)


def test_damage_with_right_sums_is_one_line(folder):
    for path in (folder / "2" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    manifest.write(folder / "2")
    with pytest.raises(SimjaxError, match="2: cannot be read") as caught:
        Checkpoints(folder).restore(2, TARGET)
    assert "\n" not in str(caught.value)


def test_leftovers_are_no_steps_and_are_removed(folder):
    half = folder / "3.orbax-checkpoint-tmp"
    shutil.copytree(folder / "2", half)
    doomed = folder / "1.discarded"
    (folder / "1").rename(doomed)
    torn = folder / "run.json.partial"
    torn.write_text("{")
    linked = folder / "7.discarded"
    linked.symlink_to(folder.parent)
    (folder / "4").mkdir()
    (folder / "notes").mkdir()
    (folder / "007").mkdir()
    assert Checkpoints(folder, read_only=True).steps() == [2]
    # Perhaps another process is writing them.
    assert all(os.path.lexists(path) for path in (half, doomed, torn, linked))
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [2] and checkpoints.latest() == 2
        assert not any(os.path.lexists(path) for path in (half, doomed, torn, linked))
        assert (folder / "notes").exists() and (folder / "007").exists()
        checkpoints.save(4, TARGET, {})  # the empty folder is not in the way
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4]


def test_a_disk_without_room_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    manifest.write_json(path, {"seed": 0})

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SimjaxError, match=r"run\.json: cannot be written \(No space left"):
        manifest.write_json(path, {"seed": 1})
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]
    assert json.loads(path.read_text()) == {"seed": 0}


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
