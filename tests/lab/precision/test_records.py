import json

import pytest

from simjax.errors import SimjaxError
from simjax.lab.precision.records import Records, fingerprint, identity
from simjax.lab.precision.settings import GRIDS, ArithmeticSettings, TrainingSettings
from simjax.lab.precision.study import RUNS, measure
from simjax.lab.precision.study import identity as study_identity

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
    again = Records(path, "a")
    assert [record.key["seed"] for record in again] == [0]
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
    assert of(machine=where | {"cores": 3}) == of()


def test_measuring_goes_on_where_it_stopped(path):
    keys = [{"seed": seed} for seed in range(5)]
    made, lines = [], []

    def one(key):
        made.append(key["seed"])
        return {"twice": 2 * key["seed"]}

    records = Records(path, "a")
    stopped = lambda: len(made) == 2  # noqa: E731  # the shortest way to say it
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
