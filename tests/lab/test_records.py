"""Lines of a file: whole or not there."""

import errno
import os
from dataclasses import dataclass

import pytest

from simjax.errors import SimjaxError
from simjax.lab.records import Records, fingerprint, identity

KEY = {"arm": "softplus", "seed": 0}


@dataclass(frozen=True)
class Settings:
    width: int = 4


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "runs.jsonl"


def test_what_is_appended_is_found_again(path):
    records = Records(path, "a")
    assert KEY not in records
    records.append(KEY, {"score": 1.5})
    records.append(KEY | {"seed": 1}, {"score": 2.5})
    for one in (records, Records(path, "a")):
        assert len(one) == 2
        assert {"seed": 0, "arm": "softplus"} in one  # in whatever order
        assert [record.values["score"] for record in one] == [1.5, 2.5]
        assert KEY | {"seed": 2} not in one


def test_a_last_line_that_was_not_finished_is_measured_again(path):
    records = Records(path, "a")
    records.append(KEY, {"score": 1.5})
    whole = path.read_bytes()
    records.append(KEY | {"seed": 1}, {"score": 2.5})
    path.write_bytes(path.read_bytes()[:-9])
    short = path.read_bytes()
    again = Records(path, "a")
    assert [record.key["seed"] for record in again] == [0]
    # Reading changes nothing: another process may be writing that line.
    assert path.read_bytes() == short
    again.cut_tail()
    assert path.read_bytes() == whole
    again.append(KEY | {"seed": 1}, {"score": 2.5})
    assert len(Records(path, "a")) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{nothing", "no JSON"),
        ("[1]", "not a record"),
        ('{"key": {}, "values": {}}', "not a record"),
        ('{"key": 1, "values": {}, "settings": "a"}', "must be objects"),
        ('{"key": {}, "values": {}, "settings": "b"}', "choose another --output"),
    ],
)
def test_a_malformed_line_is_named(path, line, said):
    Records(path, "a").append(KEY, {"score": 1.5})
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(SimjaxError, match=rf"runs\.jsonl:2: .*{said}"):
        Records(path, "a")


@pytest.mark.parametrize("content", ['{"mine": "one line, no newline"}', "text"])
def test_what_is_no_record_is_not_cut_off(path, content):
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(SimjaxError, match=r"runs\.jsonl:1: no record"):
        Records(path, "a")
    assert path.read_text() == content


@pytest.mark.parametrize("short", [True, False])
def test_what_does_not_fit_on_the_disk_leaves_no_trace(path, monkeypatch, short):
    records = Records(path, "a")
    records.append(KEY, {"score": 1.5})
    before, write = path.read_bytes(), os.write

    def full(file, line):
        write(file, line[:7])
        if short:
            return 7
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(SimjaxError, match=r"runs\.jsonl: cannot be written"):
        records.append(KEY | {"seed": 1}, {"score": 2.5})
    assert path.read_bytes() == before
    assert len(records) == 1
    monkeypatch.undo()
    records.append(KEY | {"seed": 1}, {"score": 2.5})
    assert len(Records(path, "a")) == 2


def test_a_record_is_on_the_disk_when_it_is_told_of(path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    Records(path, "a").append(KEY, {"score": 1.5})
    assert len(synced) == 1


def test_values_are_finite(path):
    records = Records(path, "a")
    with pytest.raises(ValueError, match="JSON"):
        records.append(KEY, {"score": float("nan")})
    assert not path.exists()


def test_a_folder_in_the_way_is_one_line(path):
    path.mkdir(parents=True)
    with pytest.raises(SimjaxError, match="cannot be read"):
        Records(path, "a")


def test_identities():
    assert identity({"a": 1, "b": 2}) == identity({"b": 2, "a": 1})
    assert identity({"a": 1}) != identity({"a": 2})
    assert fingerprint(Settings()) == fingerprint(Settings())
    assert fingerprint(Settings()) != fingerprint(Settings(width=8))
