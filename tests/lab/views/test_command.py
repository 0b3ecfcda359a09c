"""The command from its arguments to its report, on runs that take no time, and two real ones."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import signal
from pathlib import Path

import pytest
import yaml

from simjax.cli.main import main
from simjax.eval.report import write_json
from simjax.lab.folder import STUDY
from simjax.lab.sweep import inputs
from simjax.lab.views import recipe
from simjax.lab.views.arms import ARMS, Grid, RunKey, run_keys
from simjax.lab.views.study import Runner, trajectory
from simjax.train import config as run_config
from tests.lab.scaling.made_runs import STUDY as scaling
from tests.lab.views.made_runs import run as made
from tests.train.tiny_run import WORDS, write_data
from tests.train.tiny_run import recipe as tiny_recipe

ARMS_ASKED = ("--arms", "dropout", "delete20", "none", "--seeds", "0", "1")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A recipe of the smallest run, with `--examples 96` in mind."""
    data = tmp_path / "data"
    data.mkdir()
    write_data(data)
    path = tmp_path / "recipe.yaml"
    values = yaml.safe_load(run_config.dump(tiny_recipe(data, tmp_path / "unused")))
    values["mesh"] = {"data": 1}
    values["train"]["micro_batch"] = None
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def no_training(monkeypatch):
    """Runs that are made up; the list of those that were asked for."""
    trained = []

    def values(self, key):
        trained.append(key)
        return made(key, 50.0 + key.seed + len(key.arm)).values

    monkeypatch.setattr(Runner, "__call__", values)
    monkeypatch.setattr(inputs, "digest", lambda config: "texts")
    return trained


def call(config: Path, folder: Path, *more: str) -> int:
    parts = ("lab", "views", str(config), "--output", str(folder), "--examples", "96", *more)
    return main([*parts])


@pytest.mark.slow
def test_a_study_of_real_runs(config, tmp_path, capfd):
    folder = tmp_path / "study"
    asked = ("--arms", "dropout", "feature_cutoff", "--seeds", "0")
    assert call(config, folder, *asked) == 0
    lines = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    assert [line["key"]["arm"] for line in lines] == ["dropout", "feature_cutoff"]
    for line in lines:
        values = line["values"]
        assert not values["diverged"] and values["steps"] == 3
        assert [point["step"] for point in values["trajectory"]] == [0, 1, 2, 3]
        last = {k: v for k, v in values["trajectory"][-1].items() if k != "step"}
        assert values["scores"] == last and {"sts-dev/spearman", "sts-dev/alignment"} <= set(last)
        own = folder / "runs" / RunKey(**line["key"]).folder
        given = yaml.safe_load((own / "config.yaml").read_text())
        kinds = [change["kind"] for change in given["data"]["augment"]]
        assert kinds == ([] if line["key"]["arm"] == "dropout" else ["feature_cutoff"])
        assert given["data"]["views"] == "dropout" and given["model"]["dropout"] == 0.1
    with (folder / "trajectories.csv").open() as file:
        assert len([*csv.DictReader(file)]) == 8
    # A second time nothing is trained.
    before = (folder / "runs.jsonl").read_bytes()
    assert call(config, folder, *asked) == 0
    assert "2 runs, of which 2 are there already" in capfd.readouterr().err
    assert (folder / "runs.jsonl").read_bytes() == before


def test_a_stopped_study_goes_on(config, tmp_path, capfd, monkeypatch, no_training):
    folder = tmp_path / "study"
    real = Runner.__call__

    def interrupted(self, key):
        if len(no_training) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, key)

    monkeypatch.setattr(Runner, "__call__", interrupted)
    assert call(config, folder, *ARMS_ASKED) == 0
    assert "SIGINT: 3 measurements are kept; the same command goes on" in capfd.readouterr().err
    assert not (folder / "report.html").exists()
    monkeypatch.setattr(Runner, "__call__", real)
    assert call(config, folder, *ARMS_ASKED) == 0
    assert len(no_training) == len(set(no_training)) == 6
    page = (folder / "report.html").read_text()
    assert "simjax lab views recipe.yaml --arms dropout delete20 none" in page
    assert str(tmp_path) not in page and "not finished" not in page
    assert set(re.findall(r'(?:src|href)="([^"]{5})', page)) == {"data:", "#part"}
    pictures = {path.stem for path in folder.glob("*.png")}
    assert pictures == set(re.findall(r'<img alt="(\w+)"', page)) == {"quality", "trajectory"}
    assert {path.stem for path in folder.glob("*.csv")} == {
        *("augmentation", "dropout", "temperature", "runs", "effects", "trajectories")
    }
    (folder / "report.html").unlink()
    assert main(["lab", "views", "--output", str(folder), "--report_only"]) == 0
    assert (folder / "report.html").exists()
    # Other settings are another study.
    assert call(config, folder, *ARMS_ASKED, "--optimizer.learning_rate", "0.5") == 1
    assert "made otherwise (recipe.optimizer.learning_rate)" in capfd.readouterr().err


def test_synonyms_are_an_arm_where_a_table_is_given(config, tmp_path, capfd, no_training):
    table = tmp_path / "table.tsv"
    table.write_text(f"{WORDS[0]}\t{WORDS[1]}\n")
    folder = tmp_path / "study"
    given = ("--seeds", "0", "--synonyms", str(table))
    assert call(config, folder, *given) == 0
    assert {key.arm for key in no_training} == set(ARMS)
    no_training.clear()
    some = ("--arms", "dropout", "none", *given)
    assert call(config, tmp_path / "some", *some) == 0
    assert {key.arm for key in no_training} == {"dropout", "none", "synonyms"}
    page = (folder / "report.html").read_text()
    assert "--synonyms table.tsv" in page and str(tmp_path) not in page
    table.write_text(f"{WORDS[0]}\t{WORDS[2]}\n")
    assert call(config, folder, *given) == 1
    assert "made otherwise (synonyms)" in capfd.readouterr().err


def test_every_arm_is_a_valid_run(config, tmp_path):
    table = tmp_path / "table.tsv"
    table.write_text("a\tb\n")
    grid = Grid(tuple(ARMS), seeds=(7,))
    plan = recipe.plan(config, [], grid, tmp_path, examples=96, points=8, synonyms=table)
    for key in run_keys(grid):
        found, arm = plan.config(key), ARMS[key.arm]
        assert found.seed == found.data.seed == 7 and found.train.steps == 3
        assert found.model.dropout == arm.dropout and found.data.dropout_masks == arm.masks
        assert found.objective.temperature == arm.temperature
        changes = [change.kind for change in found.data.augment]
        expected = [change.kind for change in arm.augment]
        assert changes == (["synonyms"] if key.arm == "synonyms" else expected)


def test_a_trajectory_is_read_from_the_metrics():
    lines = [
        {"step": 0, "eval/x": 1.0, "eval/y": None},
        {"step": 1, "loss": 2.0},
        {"step": 2, "eval/x": 3.0},
    ]
    assert trajectory(lines) == [{"step": 0, "x": 1.0}, {"step": 2, "x": 3.0}]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--arms", "dropout", "crops"), "--arms crops: give one of dropout, crop10"),
        (("--arms", "crop10"), "--arms: all are compared with dropout; add it"),
        (("--arms", "dropout", "synonyms"), "--arms synonyms: needs a table"),
        (("--synonyms", "nowhere.tsv"), "--synonyms nowhere.tsv: no such file"),
        (("--seeds", "-1"), "--seeds -1: give whole numbers"),
        (("--examples", "8"), "--examples 8: fewer than a batch, which has 32"),
        (("--model.dropout", "0.2"), "--model.dropout: the study sets this; use --arms"),
        (("--evaluation.metric", "null"), "evaluation.metric is null"),
    ],
)
def test_wrong_arguments(config, tmp_path, capfd, arguments, says):
    folder = tmp_path / "study"
    assert call(config, folder, *arguments) == 2
    said = capfd.readouterr().err
    assert says in said and said.count("\n") == 1
    assert not folder.exists()


def test_other_studies_are_not_taken_for_one_of_views(config, tmp_path, capfd, no_training):
    folder = tmp_path / "study"
    folder.mkdir()
    write_json(folder / STUDY, dataclasses.asdict(scaling))
    before = (folder / STUDY).read_bytes()
    assert call(config, folder, *ARMS_ASKED) == 1
    assert main(["lab", "views", "--output", str(folder), "--report_only"]) == 1
    for line in capfd.readouterr().err.splitlines():
        assert f"{folder / STUDY}: damaged, or of another study" in line
    assert (folder / STUDY).read_bytes() == before and not no_training
