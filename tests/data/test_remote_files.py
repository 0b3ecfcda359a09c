"""Sources behind URLs: in memory and on a local file system, as fsspec reaches them."""

import gzip
import os
from pathlib import Path

import fsspec
import pytest

from simjax import remote
from simjax.data import pipeline, remote_files
from simjax.data.config import DataConfig
from simjax.data.corpus import Texts, distinct_texts, prepare
from simjax.data.remote_files import copied
from simjax.data.sources import Source
from simjax.data.tokenizer import train_wordpiece
from simjax.errors import SimjaxError, UsageError


@pytest.fixture
def place(tmp_path, request):
    """A folder of that kind, as a URL, and its file system."""
    if request.param == "memory":
        filesystem = fsspec.filesystem("memory")
        filesystem.store.clear()
        filesystem.pseudo_dirs[:] = [""]
        return "memory://bucket", filesystem
    return f"file://{tmp_path}/there", fsspec.filesystem("file", auto_mkdir=True)


both = pytest.mark.parametrize("place", ["memory", "file"], indirect=True)
in_memory = pytest.mark.parametrize("place", ["memory"], indirect=True)


def write(place, name: str, text: str) -> None:
    url, filesystem = place
    data = text.encode()
    filesystem.pipe_file(f"{url}/{name}", gzip.compress(data) if name.endswith(".gz") else data)


def counted(monkeypatch) -> list[str]:
    """The files that are copied from now on."""
    names: list[str] = []
    reached = remote.reached

    def watched(url):
        filesystem, path = reached(url)
        get = type(filesystem).get_file

        def get_file(path, *args, **options):
            names.append(path.rpartition("/")[2])
            return get(filesystem, path, *args, **options)

        monkeypatch.setattr(filesystem, "get_file", get_file)
        return filesystem, path

    monkeypatch.setattr(remote, "reached", watched)
    return names


@both
def test_a_store_of_remote_files_is_that_of_the_same_files_here(place, tmp_path, monkeypatch):
    lines = {
        "part-1.txt": "one\ntwo\nTWO\n",
        "part-0.txt.gz": "three\nfour\n",
        "b.csv": "text\nx\n",
    }
    for name, text in lines.items():
        write(place, f"deep/{name}", text)
    (tmp_path / "here").mkdir()
    for name in ("part-0.txt.gz", "part-1.txt"):
        place[1].get_file(f"{place[0]}/deep/{name}", str(tmp_path / "here" / name))
    tokenizer = train_wordpiece(["one two three four"] * 2, 60)
    monkeypatch.chdir(tmp_path)
    options = {"views": "dropout", "batch_size": 2, "cache": "cache"}
    here = DataConfig(source=Source(path=f"{tmp_path}/here/part-*"), **options)
    there = DataConfig(source=Source(path=f"{place[0]}/deep/part-*"), root="elsewhere", **options)
    names = counted(monkeypatch)
    store = prepare(there, tokenizer)
    assert store.fingerprint == prepare(here, tokenizer).fingerprint
    assert list(Texts(there)) == ["three", "four", "one", "two", "TWO"]
    assert list(distinct_texts(there, store)) == ["three", "four", "one", "two"]
    assert sorted(names) == ["part-0.txt.gz", "part-1.txt"]
    assert pipeline.BatchSource(store, there).num_examples == 5
    with pytest.raises(SimjaxError, match=rf"^{place[0]}/deep/part-\*: holds 5 examples, fewer"):
        pipeline.BatchSource(store, DataConfig(source=there.source, views="dropout"))


@both
def test_what_has_changed_is_copied_again_and_nothing_else(place, tmp_path, monkeypatch):
    for name in "abc":
        write(place, f"{name}/x.txt", f"text {name}\n")
    write(place, ".hidden/x.txt", "no\n")
    source = Source(path=f"{place[0]}/*/x.txt")
    names = counted(monkeypatch)

    def contents():
        path = Path(copied(source, tmp_path / "cache").path)
        folder = path.parents[1]
        return {
            file.relative_to(folder).as_posix(): file.read_text() for file in folder.glob("*/*")
        }

    expected = {f"{name}/x.txt": f"text {name}\n" for name in "abc"}
    assert contents() == contents() == expected
    assert len(names) == 3
    write(place, "b/x.txt", "TEXT b\n")
    place[1].rm_file(f"{place[0]}/c/x.txt")
    assert contents() == {"a/x.txt": "text a\n", "b/x.txt": "TEXT b\n"}
    assert len(names) == 4
    (folder,) = (tmp_path / "cache" / "remote").iterdir()
    (folder / "a" / "x.txt").write_text("cut")
    assert contents()["a/x.txt"] == "text a\n"
    (folder / remote_files.STATE).write_text("{")
    assert len(contents()) == 2 and len(names) == 7
    assert sorted(os.listdir(folder)) == [remote_files.STATE, "a", "b"]


@in_memory
def test_a_file_is_plain_or_compressed(place, tmp_path):
    write(place, "a.txt.gz", "text\n")
    for name in ("a.txt", "a.txt.gz"):
        path = Path(copied(Source(path=f"{place[0]}/{name}"), tmp_path).path)
        assert path.name == "a.txt.gz" and gzip.decompress(path.read_bytes()) == b"text\n"


@in_memory
def test_a_file_that_changes_while_it_is_copied(place, tmp_path, monkeypatch):
    write(place, "a.txt", "old\n")
    source = Source(path=f"{place[0]}/a.txt")
    size = remote_files._size

    def then_changed(path):
        write(place, "a.txt", "new\n")
        return size(path)

    monkeypatch.setattr(remote_files, "_size", then_changed)
    with pytest.raises(SimjaxError, match=r"a\.txt: changed while it was copied; start again"):
        copied(source, tmp_path)
    monkeypatch.setattr(remote_files, "_size", size)
    assert Path(copied(source, tmp_path).path).read_text() == "new\n"


@in_memory
def test_a_file_that_comes_incomplete(place, tmp_path, monkeypatch):
    write(place, "a.txt", "whole\n")

    def get_file(self, path, target, **options):
        Path(target).write_text("who")

    monkeypatch.setattr(type(place[1]), "get_file", get_file)
    with pytest.raises(SimjaxError, match=r"a\.txt: a\.txt came here incomplete; start again"):
        copied(Source(path=f"{place[0]}/a.txt"), tmp_path)
    assert not list(tmp_path.rglob("a.txt"))


@in_memory
def test_what_is_refused(place, tmp_path, monkeypatch):
    write(place, "folder/a.txt", "text\n")
    for path, message in {
        "memory://bucket/b.txt": r"^memory://bucket/b\.txt: no such file$",
        "memory://bucket/*.csv": r"\*\.csv: no file matches this pattern",
        "memory://bucket/folder": "folder: is a folder; name a file in it, or a pattern",
        "nowhere://bucket/a.txt": r"^nowhere://bucket/a\.txt: cannot be reached \(.*nowhere",
    }.items():
        with pytest.raises(SimjaxError, match=message):
            copied(Source(path=path), tmp_path)
    with pytest.raises(UsageError, match="a data set of hub is read from a folder of this machine"):
        copied(Source(path="memory://bucket/a", format="hub"), tmp_path)
    (tmp_path / "taken").write_text("")
    with pytest.raises(SimjaxError, match="cannot be"):
        copied(Source(path="memory://bucket/folder/a.txt"), tmp_path / "taken")
    for key in ("root", "cache"):
        with pytest.raises(UsageError, match=f"data.{key} is gs://bucket: must be on"):
            DataConfig(**{key: "gs://bucket"})
    monkeypatch.setenv("SIMJAX_DATA", "gs://bucket")
    with pytest.raises(UsageError, match="SIMJAX_DATA is gs://bucket: must be on"):
        assert DataConfig().root_path


def test_sources_here_are_left_alone(tmp_path):
    for source in (Source(path="a.txt"), Source(path="sentences", format="builtin"), Source()):
        assert copied(source, tmp_path) is source
    assert list(tmp_path.iterdir()) == []
