"""What a sweep keeps of itself, and which runs it takes; shown by the batch-size study."""

import dataclasses
from pathlib import Path

import pytest

from simjax.errors import SimjaxError
from simjax.lab.scaling import study
from simjax.lab.scaling.study import Study
from simjax.lab.sweep.study import identity
from tests.lab.scaling.made_runs import STUDY


def test_another_study_in_the_folder_is_told_by_what_differs(tmp_path):
    STUDY.write(tmp_path)
    told = STUDY.told | {"micro_batch": 16, "recipe": {"objective": {"temperature": 0.1}}}
    with pytest.raises(SimjaxError, match=r"\(micro_batch, recipe\.objective\.temperature\)"):
        dataclasses.replace(STUDY, told=told, identity="b").write(tmp_path)
    with pytest.raises(SimjaxError, match="made with other data, code, machine or versions"):
        dataclasses.replace(STUDY, identity="b").write(tmp_path)
    dataclasses.replace(STUDY, commands=["again"]).write(tmp_path)
    assert Study.read(tmp_path).commands == ["simjax", "again"]


def test_what_must_not_change_between_runs(monkeypatch):
    machine = {"device": "cpu", "processor": "x", "cores": 2, "Python": "3.11", "jax": "1"}

    def of(told=None, texts="x", **changes):
        own = Path(study.__file__).parent
        return identity(told or {"a": 1}, texts, machine | changes, own, study.TOLD_BY)

    # Speeds of two machines have no mean.
    others = [{"device": "gpu"}, {"processor": "y"}, {"cores": 3}, {"jax": "2"}, {"texts": "y"}]
    found = [of(), of({"a": 2}), *(of(**change) for change in others)]
    assert len(set(found)) == len(found) and of() == found[0]
    monkeypatch.setattr("simjax.lab.sweep.study.sources", lambda *of: "other code")
    assert of() not in found
