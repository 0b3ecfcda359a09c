"""Mirrors that are damaged, fail, hold something else, or ask for a password."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from simjax import remote
from simjax.checkpoint import manifest
from simjax.checkpoint.manager import CheckpointConfig
from simjax.checkpoint.mirror_place import MARK, WHOLE, Place
from simjax.errors import SimjaxError, UsageError
from tests.checkpoint.mirrored import (
    assert_is_state,
    files,
    forget_memory,
    in_memory,
    refused,
    run,
    save,
    saved,
    steps,
    whole_steps,
)


def largest(step):
    found = (path for path in (step / "checkpoints").rglob("*") if path.is_file())
    return max(found, key=lambda path: path.stat().st_size)


def flip_a_bit(step):
    path = largest(step)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return f"{path}: damaged, its SHA-256 is not the recorded one"


def truncate(step):
    path = largest(step)
    path.write_bytes(path.read_bytes()[:-1])
    return f"{path}: damaged"


def remove_a_file(step):
    path = step / "checkpoints" / step.name / "_CHECKPOINT_METADATA"
    path.unlink()
    return f"{path}: missing from the checkpoint"


def change_the_figures(step):
    (step / "metrics.jsonl").write_bytes(b"0")
    return f"{step / 'metrics.jsonl'}: damaged"


def cut_the_marker(step):
    path = step / WHOLE
    path.write_bytes(path.read_bytes()[:40])
    return f"{path}: cannot be read"


def named(name):
    def lie(step):
        path = step / WHOLE
        about = json.loads(path.read_text())
        about["sums"][name] = "0"
        path.write_text(json.dumps(about))
        return f"{path}: names {name!r}, which is no file of the step"

    return lie


def name_no_checkpoint(step):
    path = step / WHOLE
    path.write_text(json.dumps({"identity": {}, "best": None, "sums": {"config.yaml": "0"}}))
    return f"{path}: names no checkpoint"


DAMAGE = [
    *(flip_a_bit, truncate, remove_a_file, change_the_figures, cut_the_marker, name_no_checkpoint),
    *map(named, ("../x", "/x", "a/../../x", "a\\x", "checkpoints/1/x", "checkpoints/run.json", "")),
]


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A mirror with the steps 1 and 2."""
    folder = tmp_path_factory.mktemp("two")
    saved(folder / "run", str(folder / "there"), {1: None, 2: None})
    return folder / "there"


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_copy_is_named_and_the_one_before_it_taken(two_steps, tmp_path, damage):
    there = tmp_path / "there"
    shutil.copytree(two_steps, there)
    fault = damage(there / "2")
    said = []
    with run(tmp_path / "run", str(there), said) as (mirror, checkpoints):
        assert len(said) == 2 and said[0].startswith(f"checkpoint of step 2 left out: {fault}")
        assert said[1] == f"checkpoint of step 1 fetched from {there}"
        assert checkpoints.steps() == [1]
        assert_is_state(checkpoints, 1)
        # It stays until the run comes to that step again.
        mirror.offer(1, None)
        mirror.finish()
        assert (there / "2" / WHOLE).exists()
        (there / "2" / "left").write_text("of the damaged one")
        save(mirror, checkpoints, 2)
        assert not (there / "2" / "left").exists()
    assert not (tmp_path / "x").exists() and not list((tmp_path / "run").rglob("x"))
    del said[:]
    with run(tmp_path / "again", str(there), said) as (_, checkpoints):
        assert said == [f"checkpoint of step 2 fetched from {there}"]
        assert_is_state(checkpoints, 2)


def test_a_damaged_copy_goes_with_the_first_newer_one(two_steps, tmp_path):
    there = tmp_path / "there"
    shutil.copytree(two_steps, there)
    flip_a_bit(there / "2")
    with run(tmp_path / "run", str(there)) as (mirror, checkpoints):
        save(mirror, checkpoints, 3)
    assert whole_steps(str(there)) == steps(str(there)) == [1, 3]


def test_without_a_whole_copy_nothing_starts_over_by_itself(two_steps, tmp_path):
    there = tmp_path / "there"
    shutil.copytree(two_steps, there)
    truncate(there / "1")
    flip_a_bit(there / "2")
    said, told = [], f"^{there}: none of its checkpoints is whole; put them back"
    refused(tmp_path / "run", str(there), told, said=said)
    assert [line.split()[3] for line in said] == ["2", "1"]
    for step in ("1", "2"):
        (there / step / WHOLE).unlink()
    refused(tmp_path / "run", str(there), told)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_best_one_that_is_damaged_or_gone_is_told(tmp_path):
    there = tmp_path / "there"
    saved(tmp_path / "a", str(there), {1: 0.9, 2: 0.5, 3: 0.4})
    fault = flip_a_bit(there / "1")
    said = []
    with run(tmp_path / "b", str(there), said) as (_, checkpoints):
        assert said[0].startswith(f"checkpoint of step 1 left out: {fault}")
        assert said[1] == f"checkpoint of step 3 fetched from {there}"
        assert checkpoints.steps() == [3]
    shutil.rmtree(there / "1")
    del said[:]
    with run(tmp_path / "c", str(there), said):
        assert said[0].startswith(f"checkpoint of step 1 left out: {there}/1/checkpoints/1/")
        assert "missing" in said[0] and "step 3 fetched" in said[1]


@contextmanager
def failing(monkeypatch, times):
    """Writing to the mirror fails so often."""
    upload, left = remote.upload, [times]

    def fail(filesystem, files):
        if left[0]:
            left[0] -= 1
            raise OSError("the\nnetwork is gone")
        upload(filesystem, files)

    with monkeypatch.context() as patch:
        patch.setattr(remote, "upload", fail)
        yield


@in_memory
def test_a_copy_that_fails_is_told_and_the_next_one_tried(tmp_path, monkeypatch, url):
    said = []
    with run(tmp_path / "run", url, said) as (mirror, checkpoints):
        with failing(monkeypatch, 1):
            save(mirror, checkpoints, 1, wait=False)
            checkpoints.wait()
            mirror._work.result()
            assert said == [
                f"checkpoint of step 1 not copied to {url} (the network is gone); "
                "the next one tries again"
            ]
            assert whole_steps(url) == [] and checkpoints.latest() == 1
            save(mirror, checkpoints, 2)
        assert whole_steps(url) == steps(url) == [2] and len(said) == 1


@in_memory
def test_the_last_copy_is_tried_once_more(tmp_path, monkeypatch, url):
    said = []
    with run(tmp_path / "run", url, said) as (mirror, checkpoints):
        with failing(monkeypatch, 2):
            with pytest.raises(SimjaxError) as caught:
                save(mirror, checkpoints, 1)
            assert str(caught.value) == (
                "checkpoint.mirror: the checkpoint of step 1 could not be copied to "
                f"{url} (the network is gone); it is whole in "
                f"{tmp_path / 'run' / 'checkpoints' / '1'}, and the same command tries again"
            )
        with failing(monkeypatch, 1):
            save(mirror, checkpoints, 2)
        assert whole_steps(url) == steps(url) == [2]
        manifest.verify(tmp_path / "run" / "checkpoints" / "1")
    assert [line.split()[3] for line in said if "not copied" in line] == ["1", "2"]


@in_memory
def test_what_is_not_there_yet_is_copied_when_it_is_offered(tmp_path, url):
    saved(tmp_path / "run", None, {1: 0.5})
    with run(tmp_path / "run", url) as (mirror, checkpoints):
        mirror.offer(checkpoints.latest(), checkpoints.best())
        mirror.finish()
        assert whole_steps(url) == [1]


def test_another_run_is_refused_and_nothing_of_it_is_kept(tmp_path, url):
    saved(tmp_path / "a", url, {1: 0.5, 2: 0.4})
    before, other = files(url), {"seed": 1, "views": (1, 2)}
    told = refused(
        *(tmp_path / "b", url, f"^{url}: these checkpoints belong to another run; "),
        identity=other,
    )
    assert "refused: seed (0 there, 1 here); restore" in told
    assert told.endswith(", or choose another checkpoint.mirror")
    assert files(url) == before
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["checkpoints"]
    assert [path.name for path in (tmp_path / "b" / "checkpoints").iterdir()] == ["run.json"]
    # The folder can be that of the other run, with another mirror; not with this one, whichever
    # of the two is newer.
    saved(tmp_path / "b", f"{url}2", {1: None}, identity=other)
    for step in (3, 4):
        refused(tmp_path / "b", url, f"^{url}: these .* refused: seed", identity=other)
        saved(tmp_path / "b", None, {step: None}, identity=other)
    assert files(url) == before


def test_what_is_no_mirror_is_refused_and_left_alone(tmp_path, url):
    filesystem, place = fsspec.core.url_to_fs(url)
    filesystem.makedirs(place, exist_ok=True)
    filesystem.pipe_file(f"{place}/7", b"theirs")
    refused(tmp_path / "run", url, f"^{url}: holds files that are of no mirror; choose another")
    assert files(url) == {"7": b"theirs"}
    refused(tmp_path / "run", f"{url}/7", f"^{url}/7: is a file; choose another")


def test_run_and_mirror_do_not_lie_in_each_other(tmp_path):
    for folder, mirror in (("run", "run/m"), ("run", "run"), ("m/1", "m"), ("run", "m/../run/m")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        with pytest.raises(UsageError, match="neither may lie in the other; choose"):
            saved(tmp_path / folder, str(tmp_path / mirror), {})
    assert not list(tmp_path.rglob(MARK))


@in_memory
def test_a_mirror_that_cannot_be_reached_or_written_is_one_line(tmp_path, monkeypatch, url):
    for where, told in {
        "nowhere://bucket/m": r"^nowhere://bucket/m: cannot be reached \(.*nowhere",
        "gs://bucket/m": r"^gs://bucket/m: cannot be reached \(.*install gcsfs",
        "s3://bucket/m": r"^s3://bucket/m: cannot be reached \(.*[Ii]nstall s3fs",
        "/proc/m": r"^/proc/m: cannot be written \(",
    }.items():
        refused(tmp_path / "run", where, told)
    saved(tmp_path / "a", url, {1: None})
    with failing(monkeypatch, 1):
        refused(tmp_path / "run", url, rf"^{url}: cannot be written \(the network is gone\)$")

    assert list((tmp_path / "run").iterdir()) == []  # not after it was all fetched

    def broken(self, path, **options):
        raise PermissionError("not yours")

    monkeypatch.setattr(MemoryFileSystem, "ls", broken)
    refused(tmp_path / "run", url, rf"^{url}: cannot be read \(not yours\)$")


def test_without_a_mirror_nothing_is_done(tmp_path):
    saved(tmp_path / "run", None, {1: None, 2: None, 3: None})
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["2", "3", "run.json"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoints"]
    with pytest.raises(UsageError, match=r"checkpoint\.mirror is empty"):
        CheckpointConfig(mirror=" ")


class Guarded(MemoryFileSystem):
    """Needs a password, and tells it to everybody."""

    protocol = "guarded"
    refuses = False

    @classmethod
    def _strip_protocol(cls, path):
        path = str(path).rpartition("@")[2].partition("?")[0]
        return super()._strip_protocol(path.removeprefix("guarded://"))

    def put_file(self, path, target, **options):
        if self.refuses:
            raise PermissionError("tanja may not with geheim at guarded://tanja:geheim@host/m?k=v")
        super().put_file(path, target, **options)


def test_nobody_is_told_a_password(tmp_path, monkeypatch):
    forget_memory()
    fsspec.register_implementation("guarded", Guarded, clobber=True)
    url = "guarded://tanja:geheim@host/m?sig=abc"
    said = []
    saved(tmp_path / "a", url, {1: None}, said=said)
    with run(tmp_path / "b", url, said) as (mirror, checkpoints):
        monkeypatch.setattr(Guarded, "refuses", True)
        with pytest.raises(SimjaxError) as failed:
            save(mirror, checkpoints, 2)
    told = [str(failed.value), refused(tmp_path / "c", url, "cannot be written")]
    monkeypatch.setattr(Guarded, "refuses", False)
    told.append(refused(tmp_path / "d", url, "another run", said=said, identity={"seed": 1}))
    assert all("guarded://host/m" in line for line in told) and len(said) == 3
    told += said
    for line in told:
        assert not any(word in line for word in ("tanja", "geheim", "sig", "abc", "k=v")), line


def test_a_place_shows_steps_alone(tmp_path):
    for name in ("1", "007", "x", "12"):
        (tmp_path / "m" / name).mkdir(parents=True)
    assert Place(str(tmp_path / "m")).steps() == [1, 12]
    assert Place(str(tmp_path / "none")).names() == set()


def test_a_damaged_checkpoint_here_is_fetched_again(tmp_path, url):
    saved(tmp_path / "run", url, {1: 0.5, 2: 0.4})
    step = tmp_path / "run" / "checkpoints" / "2"
    path = step / max(manifest.read(step), key=lambda name: (step / name).stat().st_size)
    path.write_bytes(path.read_bytes()[:-1])
    with run(tmp_path / "run", url) as (_, checkpoints):
        assert checkpoints.latest() == 2
        assert_is_state(checkpoints, 2)


def test_nothing_is_fetched_beside_checkpoints_of_nobody_knows_which_run(tmp_path, url):
    saved(tmp_path / "a", url, {1: 0.5, 2: 0.4})
    saved(tmp_path / "b", None, {1: 0.9}, identity={"seed": 1, "views": (1, 2)})
    (tmp_path / "b" / "checkpoints" / "run.json").unlink()
    refused(tmp_path / "b", url, r"run\.json: cannot be read .* so that nothing tells")
    assert [path.name for path in (tmp_path / "b" / "checkpoints").iterdir()] == ["1"]


def test_a_start_that_is_refused_here_leaves_the_mirror_to_the_other(tmp_path, url):
    saved(tmp_path / "b", None, {5: None}, identity={"seed": 1, "views": (1, 2)})
    with run(tmp_path / "a", url) as (mirror, checkpoints):
        save(mirror, checkpoints, 1)
        refused(tmp_path / "b", url, "another run; refused: seed")
        save(mirror, checkpoints, 2)
    assert whole_steps(url) == [1, 2]


def test_a_mirror_puts_nothing_else_into_the_run_folder(tmp_path):
    saved(tmp_path / "a", str(tmp_path / "there"), {1: 0.5})
    step = tmp_path / "there" / "1"
    (step / "export").mkdir()
    (step / "export" / "theirs").write_bytes(b"x")
    said = json.loads((step / WHOLE).read_text())
    said["sums"] |= manifest.sums(step, ["export/theirs"])
    (step / WHOLE).write_text(json.dumps(said))
    (tmp_path / "b" / "export").mkdir(parents=True)
    (tmp_path / "b" / "export" / "mine").touch()
    with run(tmp_path / "b", str(tmp_path / "there")) as (_, checkpoints):
        assert checkpoints.latest() == 1
    assert [path.name for path in (tmp_path / "b" / "export").iterdir()] == ["mine"]
