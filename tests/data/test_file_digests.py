import hashlib
import os

import pytest

from simjax.data import file_digests
from simjax.data.file_digests import content_digest


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file that counts as large and as changed long ago."""
    monkeypatch.setattr(file_digests, "LARGE", 4)
    monkeypatch.setattr(file_digests, "SETTLED", -1)
    path = tmp_path / "a.txt"
    path.write_bytes(b"content")
    return path


@pytest.fixture
def reads(monkeypatch):
    """The files that are read."""
    read, hashed = [], file_digests._hashed
    monkeypatch.setattr(file_digests, "_hashed", lambda path: (read.append(path), hashed(path))[1])
    return read


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_large_file_is_read_once(file, reads, tmp_path) -> None:
    assert [content_digest(file, tmp_path / "cache") for _ in range(3)] == [sha(b"content")] * 3
    assert reads == [file]
    (note,) = (tmp_path / "cache" / "digests").iterdir()
    note.write_text("{")
    assert content_digest(file, tmp_path / "cache") == sha(b"content")
    assert len(reads) == 2


def test_a_change_is_seen_though_size_and_time_are_the_same(file, tmp_path) -> None:
    content_digest(file, tmp_path)
    times = os.stat(file)
    file.write_bytes(b"Content")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert content_digest(file, tmp_path) == sha(b"Content")
    other = file.with_name("b.txt")
    other.write_bytes(b"CONTENT")
    other.replace(file)
    assert content_digest(file, tmp_path) == sha(b"CONTENT")


def test_what_changed_just_now_is_not_remembered(file, reads, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(file_digests, "SETTLED", 10**18)
    assert [content_digest(file, tmp_path) for _ in range(2)] == [sha(b"content")] * 2
    assert len(reads) == 2


def test_small_files_and_caches_that_cannot_be_written(file, reads, tmp_path, monkeypatch) -> None:
    (tmp_path / "taken").write_text("")
    assert content_digest(file, tmp_path / "taken") == sha(b"content")
    monkeypatch.setattr(file_digests, "LARGE", 100)
    assert content_digest(file, tmp_path / "cache") == sha(b"content")
    assert not (tmp_path / "cache").exists()
