import errno
import json
import os
import re
from pathlib import Path

import pytest

from simjax.errors import SimjaxError
from simjax.lab.precision import study
from simjax.lab.precision.records import Records, fingerprint, identity
from simjax.lab.precision.settings import GRIDS, ArithmeticSettings, TrainingSettings
from simjax.lab.precision.study import ARITHMETIC, CHECKED, RUNS, measure
from simjax.lab.precision.study import identity as study_identity
from tests.lab.precision.made_runs import measurement, run

KEY = {"arm": "softplus", "seed": 0}


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


@pytest.mark.parametrize(
    ("name", "made"), [(RUNS, run("softplus", 0, 1.0)), (ARITHMETIC, measurement(1, 1, 1))]
)
def test_a_record_that_lacks_something_is_named(path, name, made):
    folder = path.parent
    Records(folder / name, "a", CHECKED[name]).append(made.key, made.values)
    assert len(Records(folder / name, "a", CHECKED[name])) == 1
    for lacking in (*made.values, *made.key):
        (folder / name).unlink()
        parts = [{k: v for k, v in x.items() if k != lacking} for x in (made.key, made.values)]
        Records(folder / name, "a").append(*parts)
        with pytest.raises(SimjaxError, match=rf"{name}:1: incomplete"):
            Records(folder / name, "a", CHECKED[name])


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
    assert fingerprint(ArithmeticSettings()) == fingerprint(ArithmeticSettings())
    assert fingerprint(ArithmeticSettings()) != fingerprint(ArithmeticSettings(width=8))


def test_grids_may_grow_and_nothing_else_may_change():
    where = {"device": "cpu", "jax": "1"}

    def of(training=None, texts="x", machine=where):
        return study_identity(ArithmeticSettings(), training or TrainingSettings(), texts, machine)[
            RUNS
        ]

    assert of(TrainingSettings(seeds=9, batches=(4,), adamw_rates=(1.0,))) == of()
    assert GRIDS.isdisjoint({"steps", "examples", "temperature", "width"})
    assert of(TrainingSettings(examples=1)) != of()
    assert of(texts="y") != of()
    assert of(machine=where | {"jax": "2"}) != of()
    assert of(machine=where | {"device": "gpu"}) != of()
    assert of(machine=where | {"cores": 3}) == of()


def test_other_code_is_another_study(monkeypatch):
    here = {"device": "cpu", "jax": "1"}
    before = study_identity(ArithmeticSettings(), TrainingSettings(), "x", here)
    monkeypatch.setattr(study, "sources", lambda: "other")
    after = study_identity(ArithmeticSettings(), TrainingSettings(), "x", here)
    assert all(before[name] != after[name] for name in before)


def test_what_measures_is_hashed_and_what_only_tells_is_not(monkeypatch):
    read = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.stem) or real(path))
    assert study.sources() == study.sources()
    assert {"arithmetic", "tiled", "training", "scoring", "system", "reductions", "api"} <= set(
        read
    )
    assert study.TOLD_BY.isdisjoint(read)
    # None of what measures needs what only tells.
    folder = Path(study.__file__).parent
    for path in folder.glob("*.py"):
        if path.stem not in study.TOLD_BY | {"command"}:
            named = re.findall(r"simjax\.lab\.precision(?:\.| import )(\w+)", path.read_text())
            assert study.TOLD_BY.isdisjoint(named), path


def test_measuring_goes_on_where_it_stopped(path):
    keys = [{"seed": seed} for seed in range(5)]
    made, lines = [], []

    def one(key):
        made.append(key["seed"])
        return {"twice": 2 * key["seed"]}

    def stopped():
        return len(made) == 2

    records = Records(path, "a")
    assert not measure(records, keys, one, stopped=stopped, said=lines.append)
    assert made == [0, 1]
    again = Records(path, "a")
    assert measure(again, keys, one, stopped=lambda: False, said=lines.append)
    assert made == [0, 1, 2, 3, 4]
    assert [json.loads(line)["values"]["twice"] for line in path.read_text().splitlines()] == [
        0, 2, 4, 6, 8,
    ]  # fmt: skip
    assert lines[2].startswith("2 of 5")
    assert measure(again, keys, one, stopped=lambda: False, said=lines.append)
    assert len(made) == 5
