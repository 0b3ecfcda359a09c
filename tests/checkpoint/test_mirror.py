"""Checkpoints that are copied elsewhere, and fetched when they are gone here."""

from __future__ import annotations

import json
import shutil
import threading

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from simjax.checkpoint import mirror as mirrors
from simjax.checkpoint.mirror import Mirror
from simjax.checkpoint.mirror_place import WHOLE, Place
from simjax.errors import SimjaxError
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


def test_what_is_copied_comes_back(tmp_path, url):
    saved(tmp_path / "a", url, {1: None, 2: None})
    found = files(url)
    assert whole_steps(url) == [1, 2]
    about = json.loads(found[f"2/{WHOLE}"])
    assert {f"2/{name}" for name in about["sums"]} | {f"2/{WHOLE}"} == {
        name for name in found if name.startswith("2/")
    }
    said = []
    with run(tmp_path / "b", url, said) as (_, checkpoints):
        assert said == [f"checkpoint of step 2 fetched from {url}"]
        assert checkpoints.steps() == [2]
        assert_is_state(checkpoints, 2)
    own = tmp_path / "b" / "checkpoints" / "2"
    here = {path.relative_to(own) for path in own.rglob("*")}
    there = tmp_path / "a" / "checkpoints" / "2"
    assert here == {path.relative_to(there) for path in there.rglob("*")}
    names = {path.name for path in (tmp_path / "b").iterdir()}
    assert names == {"checkpoints", "config.yaml", "metrics.jsonl", "tokenizer"}
    assert (tmp_path / "b" / "metrics.jsonl").read_bytes() == b"2"
    assert (tmp_path / "b" / "tokenizer" / "vocab.txt").read_bytes() == b"a\n"


@in_memory
def test_the_newest_stay_and_the_best(tmp_path, url):
    with run(tmp_path / "a", url) as (mirror, checkpoints):
        for step, score in {1: 0.5, 2: 0.9, 3: 0.1, 4: 0.2, 5: 0.3}.items():
            save(mirror, checkpoints, step, score)
            assert whole_steps(url) == steps(url) == checkpoints.steps()
        assert checkpoints.steps() == [2, 4, 5]
    # Of the best one its checkpoint comes; what lies beside is the newest one's.
    fsspec.filesystem("memory").pipe_file(f"{url}/2/metrics.jsonl", b"damaged")
    with run(tmp_path / "b", url) as (mirror, checkpoints):
        assert checkpoints.steps() == [2, 5] and checkpoints.best() == 2
        assert_is_state(checkpoints, 2)
        assert (tmp_path / "b" / "metrics.jsonl").read_bytes() == b"5"
        save(mirror, checkpoints, 6, 0.95)
        assert checkpoints.steps() == [5, 6] == steps(url)


class Cut(BaseException):
    """A process that is killed."""


@pytest.mark.parametrize("end", [".json", "vocab.txt", WHOLE])
def test_a_copy_that_is_cut_off_does_not_count_and_is_cleaned_up(tmp_path, monkeypatch, url, end):
    """At the sums of the checkpoint, at what lies beside it, and at the last file."""
    saved(tmp_path / "a", url, {1: None})
    filesystem, _ = fsspec.core.url_to_fs(url)
    put = type(filesystem).put_file

    def killed(self, path, target, **options):
        if "/2/" in target and target.endswith(end):
            raise Cut
        put(self, path, target, **options)

    monkeypatch.setattr(type(filesystem), "put_file", killed)
    with pytest.raises(Cut), run(tmp_path / "a", url) as (mirror, checkpoints):
        save(mirror, checkpoints, 2)
    monkeypatch.setattr(type(filesystem), "put_file", put)
    assert steps(url) == [1, 2] and whole_steps(url) == [1]
    filesystem.pipe_file(f"{url}/2/left", b"of another copy")
    said = []
    with run(tmp_path / "b", url, said) as (mirror, checkpoints):
        assert said == [f"checkpoint of step 1 fetched from {url}"]
        save(mirror, checkpoints, 2)
    assert whole_steps(url) == [1, 2] and "2/left" not in files(url)
    with run(tmp_path / "c", url) as (_, checkpoints):
        assert_is_state(checkpoints, 2)


@in_memory
def test_a_fetch_that_is_cut_off_begins_anew(tmp_path, monkeypatch, url):
    saved(tmp_path / "a", url, {1: 0.9, 2: 0.5, 3: 0.4})
    move, left = Mirror._move, [1]

    def killed(self, step):
        if not left[0]:
            raise Cut
        left[0] -= 1
        move(self, step)

    monkeypatch.setattr(Mirror, "_move", killed)
    with pytest.raises(Cut), run(tmp_path / "b", url):
        pass
    monkeypatch.setattr(Mirror, "_move", move)
    with run(tmp_path / "b", url) as (_, checkpoints):
        assert checkpoints.steps() == [1, 3] and checkpoints.best() == 1
    assert not (tmp_path / "b" / "fetched.partial").exists()


@in_memory
def test_scores_that_come_later_never_cost_the_newest_copy(tmp_path, monkeypatch, url):
    saved(tmp_path / "a", url, {1: None})
    with run(tmp_path / "b", url) as (mirror, checkpoints), monkeypatch.context() as patch:
        patch.setattr(Place, "remove", lambda self, step: 1 / 0)
        checkpoints.score(1, {"dev": 0.9})
        checkpoints.wait()
        mirror.finish()
        assert whole_steps(url) == [1]
    with run(tmp_path / "c", url) as (mirror, checkpoints):
        assert checkpoints.metrics(1) == {}
        checkpoints.score(1, {"dev": 0.9})
        checkpoints.wait()
        save(mirror, checkpoints, 2, 0.5)
        assert whole_steps(url) == [1, 2]
    with run(tmp_path / "d", url) as (_, checkpoints):
        assert checkpoints.steps() == [1, 2] and checkpoints.best() == 1
        assert checkpoints.metrics(1) == {"dev": 0.9}


class Slow(MemoryFileSystem):
    """Files in memory; each waits to be let in."""

    protocol = "slow"
    began, go_on = threading.Event(), threading.Event()

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("slow://"))

    def put_file(self, path, target, **options):
        if threading.current_thread() is not threading.main_thread():
            self.began.set()
            assert self.go_on.wait(60)
        super().put_file(path, target, **options)


def test_a_slow_mirror_holds_nothing_up_and_copies_the_newest(tmp_path, monkeypatch):
    forget_memory()
    said = []
    fsspec.register_implementation("slow", Slow, clobber=True)
    Slow.began.clear()
    Slow.go_on.clear()
    here = tmp_path / "run" / "checkpoints"
    with run(tmp_path / "run", "slow://bucket/m", said) as (mirror, checkpoints):
        for step, score in {1: 0.1, 2: 0.9, 3: 0.2, 4: 0.3, 5: 0.4}.items():
            save(mirror, checkpoints, step, score, wait=False)
            checkpoints.wait()
            assert Slow.began.wait(60)
        # While step 1 is read it stays, though it counts no more.
        assert checkpoints.steps() == [2, 4, 5] and whole_steps("slow://bucket/m") == []
        assert sorted(p.name for p in here.iterdir()) == ["1", "2", "4", "5", "run.json"]
        monkeypatch.setattr(mirrors, "_PATIENCE", 0.1)
        threading.Timer(0.5, Slow.go_on.set).start()
        mirror.finish()
        assert said == ["waiting for the last copy to slow://bucket/m"]
        assert sorted(p.name for p in here.iterdir()) == ["2", "4", "5", "run.json"]
    # 3 and 4 had to make way for 5, the best one had not.
    assert whole_steps("slow://bucket/m") == steps("slow://bucket/m") == [2, 5]
    with run(tmp_path / "again", "slow://bucket/m") as (_, checkpoints):
        assert checkpoints.steps() == [2, 5]
        assert_is_state(checkpoints, 5)


@in_memory
def test_the_newer_one_counts(tmp_path, url):
    saved(tmp_path / "a", url, {1: None, 2: None})
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    said = []
    with run(tmp_path / "b", url, said) as (mirror, checkpoints):
        assert said == []  # equal
        save(mirror, checkpoints, 3)
    with run(tmp_path / "a", url, said) as (_, checkpoints):
        assert said == [f"checkpoint of step 3 fetched from {url}, newer than step 2 here"]
        assert checkpoints.steps() == [1, 2, 3]
        assert_is_state(checkpoints, 3)
    del said[:]
    saved(tmp_path / "a", None, {4: None})
    with run(tmp_path / "a", url, said) as (_, checkpoints):
        assert said == [] and checkpoints.latest() == 4


@in_memory
def test_a_start_that_was_thought_dead_writes_no_more(tmp_path, url):
    said = []
    with run(tmp_path / "a", url, said) as (mirror, checkpoints):
        save(mirror, checkpoints, 1)
        # A start that is refused is none.
        refused(tmp_path / "c", url, "another run", identity={"seed": 1})
        save(mirror, checkpoints, 2)
        with run(tmp_path / "b", url) as (other, theirs):
            save(mirror, checkpoints, 3)  # until the other one copies, as it does when it goes on
            other.offer(theirs.latest(), theirs.best())
            other.finish()
            assert whole_steps(url) == [2, 3]  # that which came in between stays
            before = files(url)
            with pytest.raises(SimjaxError, match="another start writes its checkpoints there"):
                save(mirror, checkpoints, 4)
            assert files(url) == before
    assert len(said) == 1 and "step 4 not copied" in said[0]
