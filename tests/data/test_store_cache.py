"""Stores that are built by several at once, by processes that die, or of files that change."""

import os
import shutil
import threading
import time

import numpy as np
import pytest

from simjax.data import numbering, store_writer, token_store
from simjax.data.sources import Source
from simjax.data.store_writer import MARKER, TOKENS
from simjax.data.token_store import build
from simjax.data.tokenizer import train_wordpiece
from simjax.errors import SimjaxError

TEXTS = [f"word{i % 7} and {'more ' * (i % 5)}text {i}" for i in range(60)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece(TEXTS, 120)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(TEXTS) + "\n")
    return tmp_path


@pytest.fixture
def make(root, tokenizer):
    def make(path="a.txt", *, max_length=32):
        source = Source(path=path)
        return build(source, root, tokenizer, max_length=max_length, cache=root / "cache")

    return make


def test_a_build_that_fails_leaves_nothing_behind(make, root, monkeypatch):
    monkeypatch.setattr(store_writer, "_example_table", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make()
    assert list((root / "cache").iterdir()) == []


def test_what_dead_builders_left_is_removed(make, root, monkeypatch):
    cache, name = root / "cache", make().fingerprint
    shutil.rmtree(cache / name)
    past = time.time() - token_store.ABANDONED - 60

    def left(draft, *, old=False, at_work=False):
        draft.mkdir()
        (draft / TOKENS).write_bytes(b"half")
        if old:
            if not at_work:
                os.utime(draft / TOKENS, (past, past))
            os.utime(draft, (past, past))
        return draft

    other = "0" * 32
    left(token_store._draft(cache, name))
    left(token_store._draft(cache, other), old=True)
    left(cache / f"{other}.0123456789abcdef.tmp", old=True)  # as they were once named
    kept = [
        left(token_store._draft(cache, other)),
        left(token_store._draft(cache, f"{other[:-1]}1"), old=True, at_work=True),
        left(cache / "theirs.tmp", old=True),
    ]
    for lock in (other, "theirs"):
        (cache / f"{lock}.lock").touch()
    kept.append(cache / "theirs.lock")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(token_store.socket, "gethostname", lambda: "else-where")
        kept.append(left(token_store._draft(cache, name)))
    make()
    assert {path.name for path in cache.iterdir()} == {name, *(path.name for path in kept)}
    # Without locks another builder of this machine may be at work.
    shutil.rmtree(cache / name)
    kept.append(left(token_store._draft(cache, name)))
    monkeypatch.setattr(token_store.lock, "tried", lambda file: "none")
    make()
    assert {path.name for path in cache.iterdir()} == {name, *(path.name for path in kept)}


@pytest.mark.parametrize("locks", [False, True])
@pytest.mark.parametrize("damaged", [False, True])
def test_builders_at_the_same_time_agree(make, root, monkeypatch, damaged, locks):
    folder = root / "cache" / make().fingerprint
    if damaged:
        (folder / MARKER).unlink()
    else:
        shutil.rmtree(folder)
    found, written, barrier = [], [], threading.Barrier(6)
    write = store_writer.write

    def counted(folder, *args):
        written.append(folder)
        write(folder, *args)

    monkeypatch.setattr(store_writer, "write", counted)
    if not locks:
        monkeypatch.setattr(token_store.lock, "tried", lambda file: "none")

    def builder():
        barrier.wait()
        found.append(np.array(make().tokens))

    threads = [threading.Thread(target=builder) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert all((tokens == found[0]).all() for tokens in found)
    assert [path.name for path in (root / "cache").iterdir()] == [folder.name]
    assert len(written) == 1 or not locks


@pytest.mark.parametrize("changed", ["content", "another file"])
def test_a_source_that_changes_after_its_fingerprint_was_taken(make, root, monkeypatch, changed):
    write = store_writer.write

    def then_changed(*args):
        write(*args)
        if changed == "content":
            (root / "a.txt").write_text("\n".join(TEXTS).replace("word", "WORD") + "\n")
        else:
            (root / "b.txt").write_text("more\n")

    monkeypatch.setattr(store_writer, "write", then_changed)
    with pytest.raises(SimjaxError, match=r"\.txt: changed while it was read; start again"):
        make("*.txt")
    assert list((root / "cache").iterdir()) == []


def test_more_texts_than_have_numbers(make, root, monkeypatch):
    monkeypatch.setattr(numbering, "MOST_TEXTS", 60)
    make()
    monkeypatch.setattr(numbering, "MOST_TEXTS", 59)
    with pytest.raises(SimjaxError, match=r"a\.txt: more than 59 texts; take a part of them"):
        make(max_length=31)


def test_a_disk_without_room_for_a_map(make, root, monkeypatch):
    """A page of a map that cannot be had would kill the process."""

    def full(file, offset, length):
        assert length > 60 * 4
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(SimjaxError, match="cannot be written: No space left on device"):
        make()
    assert list((root / "cache").iterdir()) == []
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(95, "")))
    make()  # the file system knows no such request
