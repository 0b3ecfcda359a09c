"""What the study keeps of itself, and which records it takes."""

import pytest

from simjax.errors import SimjaxError
from simjax.lab.precision import study
from simjax.lab.precision.settings import GRIDS, ArithmeticSettings, TrainingSettings
from simjax.lab.precision.study import ARITHMETIC, CHECKED, RUNS
from simjax.lab.precision.study import identity as study_identity
from simjax.lab.records import Records
from tests.lab.precision.made_runs import measurement, run


@pytest.mark.parametrize(
    ("name", "made"), [(RUNS, run("softplus", 0, 1.0)), (ARITHMETIC, measurement(1, 1, 1))]
)
def test_a_record_that_lacks_something_is_named(tmp_path, name, made):
    folder = tmp_path
    Records(folder / name, "a", CHECKED[name]).append(made.key, made.values)
    assert len(Records(folder / name, "a", CHECKED[name])) == 1
    for lacking in (*made.values, *made.key):
        (folder / name).unlink()
        parts = [{k: v for k, v in x.items() if k != lacking} for x in (made.key, made.values)]
        Records(folder / name, "a").append(*parts)
        with pytest.raises(SimjaxError, match=rf"{name}:1: incomplete"):
            Records(folder / name, "a", CHECKED[name])


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
    monkeypatch.setattr(study, "sources", lambda *of: "other")
    after = study_identity(ArithmeticSettings(), TrainingSettings(), "x", here)
    assert all(before[name] != after[name] for name in before)
