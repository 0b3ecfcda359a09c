"""The command from its arguments to its report, on runs that take no time."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import re
import signal

import pytest
import yaml

from simjax.cli.main import main
from simjax.errors import SimjaxError, UsageError
from simjax.eval import tasks
from simjax.lab.measuring import Stopped
from simjax.lab.scaling import command, recipe, report
from simjax.lab.scaling.grid import Grid, RunKey, Setting, check, run_keys, settings
from simjax.lab.scaling.study import Study
from simjax.lab.sweep import inputs, runs
from simjax.lab.sweep.recipe import find
from simjax.mesh import make_mesh
from simjax.train import setup
from simjax.train.step import blocks_per_device
from tests.lab.scaling.made_runs import STUDY
from tests.lab.scaling.made_runs import run as made
from tests.train.tiny_run import recipe as tiny_recipe
from tests.train.tiny_run import write_data

GRID = ("--batch_sizes", "8", "16", "--negative_groups", "4", "batch", "--seeds", "0", "1")
SMALL = ("--batch_sizes", "32", "--negative_groups", "8", "--objectives", "dcl", "--seeds", "0")


@pytest.fixture
def config(tmp_path):
    """A recipe of the smallest run, with `--examples 64` in mind."""
    from simjax.train import config as run_config

    data = tmp_path / "data"
    data.mkdir()
    write_data(data)
    path = tmp_path / "recipe.yaml"
    text = run_config.dump(tiny_recipe(data, tmp_path / "unused"))
    values = yaml.safe_load(text)
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
        score = 50.0 + key.seed + key.batch
        return made(key, score).values | {"scores": {"sts-dev/spearman": score}}

    monkeypatch.setattr(runs.Runner, "__call__", values)
    monkeypatch.setattr(inputs, "digest", lambda config: "texts")
    return trained


def call(config, folder, *more):
    parts = ("lab", "scaling", str(config), "--output", str(folder), "--examples", "64", *more)
    return main([*parts, "--lr_rules", "constant", "sqrt"])


@pytest.mark.slow
def test_a_study_of_real_runs(config, tmp_path, capfd):
    folder = tmp_path / "study"
    assert call(config, folder, *SMALL, "--micro_batch", "8", "--base_batch", "32") == 0
    (record,) = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    assert record["key"] == {
        "objective": "dcl", "batch": 32, "group": 8, "lr_rule": "constant", "seed": 0,
    }  # fmt: skip
    values = record["values"]
    # 64 examples are two updates of 32.
    assert values["steps"] == 2 and not values["diverged"]
    assert {"sts-dev/spearman", "sts-dev/uniformity"} <= set(values["scores"])
    assert values["memory"] > 0 and values["pairs_per_second"] > 0 and values["noise"] > 0
    own = folder / "runs" / RunKey(**record["key"]).folder
    config_of_run = yaml.safe_load((own / "config.yaml").read_text())
    assert config_of_run["objective"]["loss"] == "dcl"
    assert config_of_run["objective"]["negative_group"] == 8
    assert not (own / "checkpoints").exists() and (own / "metrics.jsonl").exists()
    with (folder / "runs.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["sts-dev/spearman"]) == values["scores"]["sts-dev/spearman"]
    assert "unbiased" in (folder / "report.html").read_text()
    # A second time nothing is trained.
    before = (folder / "runs.jsonl").read_bytes()
    assert call(config, folder, *SMALL, "--micro_batch", "8", "--base_batch", "32") == 0
    assert "1 runs, of which 1 are there already" in capfd.readouterr().err
    assert (folder / "runs.jsonl").read_bytes() == before


def test_a_stopped_study_goes_on(config, tmp_path, capfd, monkeypatch, no_training):
    folder = tmp_path / "study"
    real = runs.Runner.__call__

    def interrupted(self, key):
        if len(no_training) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, key)

    monkeypatch.setattr(runs.Runner, "__call__", interrupted)
    assert call(config, folder, *GRID) == 0
    assert "SIGINT: 3 measurements are kept; the same command goes on" in capfd.readouterr().err
    assert not (folder / "report.html").exists()
    with (folder / "runs.jsonl").open("a") as file:
        file.write('{"settings": "torn')
    monkeypatch.setattr(runs.Runner, "__call__", real)
    assert call(config, folder, *GRID) == 0
    assert len(no_training) == len(set(no_training)) == 2 * 2 * 8
    page = (folder / "report.html").read_text()
    assert "simjax lab scaling recipe.yaml --batch_sizes 8 16" in page and str(tmp_path) not in page
    assert set(re.findall(r'(?:src|href)="([^"]{5})', page)) == {"data:", "#part"}
    assert "not finished" not in page and "about twice was measured" in page
    pictures = {path.stem for path in folder.glob("*.png")}
    assert pictures == set(re.findall(r'<img alt="(\w+)"', page)) == {"quality", "cost", "noise"}
    tables = {path.stem for path in folder.glob("*.csv")}
    assert tables == {"runs", "quality", "effects", "noise", "cost"}

    # More seeds later on: what is there is kept.
    assert call(config, folder, *GRID, "2") == 0
    assert len(no_training) == 3 * 2 * 8
    (folder / "report.html").unlink()
    assert main(["lab", "scaling", "--output", str(folder), "--report_only"]) == 0
    assert (folder / "report.html").exists()

    # Other settings are another study, and nothing of this one is touched.
    kept = (folder / "runs.jsonl").read_bytes()
    assert call(config, folder, *GRID, "--objective.temperature", "0.1") == 1
    assert "made otherwise (recipe.objective.temperature)" in capfd.readouterr().err
    monkeypatch.setattr("simjax.lab.sweep.study.sources", lambda *of: "other code")
    assert call(config, folder, *GRID) == 1
    assert (folder / "runs.jsonl").read_bytes() == kept


def test_a_run_that_a_signal_ends_has_no_record(config, tmp_path, capfd, monkeypatch, no_training):
    def stopped(self, key):
        raise Stopped("SIGTERM")

    monkeypatch.setattr(runs.Runner, "__call__", stopped)
    assert call(config, tmp_path / "study", *GRID) == 0
    assert "SIGTERM: 0 measurements are kept" in capfd.readouterr().err
    assert not (tmp_path / "study" / "runs.jsonl").exists()


@pytest.mark.parametrize("examples", [pytest.param(96, marks=pytest.mark.slow), 32])
def test_a_run_that_diverges_is_a_record(config, tmp_path, examples):
    """The loss of a later step is not finite, or the model that the one step leaves."""
    grid = Grid((32,), (None,), ("infonce",), ("constant",), seeds=(0,))
    ruinous = recipe.read(config, ["--optimizer.learning_rate=1.0e+38", "--optimizer.warmup=0"])
    plan = recipe.plan(
        ruinous, grid, tmp_path / "study", examples=examples, base_batch=32, micro_batch=8
    )
    key = RunKey("infonce", 32, 32, "constant", 0)
    values = runs.Runner(plan.config)(key)
    assert values["diverged"] and values["scores"] == {} and values["steps"] >= 1
    records = STUDY.records(tmp_path)
    records.append(dataclasses.asdict(key), values)
    assert len(STUDY.records(tmp_path)) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--objectives", "nce"), "--objectives nce: give one of infonce, flatnce, dcl"),
        (("--lr_rules", "cubic"), "--lr_rules cubic: give one of constant, sqrt, linear"),
        (("--batch_sizes", "24"), "--batch_sizes 24: does not divide --examples 64"),
        (("--batch_sizes", "1"), "--batch_sizes 1: give at least 2"),
        (("--batch_sizes", "16", "--negative_groups", "6"), "--negative_groups 6: does not divide"),
        (("--batch_sizes", "16", "--negative_groups", "32"), "--negative_groups 32: give from 2"),
        (("--batch_sizes", "8", "16", "--negative_groups", "16"), "none is as small as"),
        (("--batch_sizes", "16", "--micro_batch", "32"), "no multiple of the micro-batch of 32"),
        (("--batch_sizes", "16", "--seeds", "-1"), "--seeds -1: give whole numbers"),
        (("--batch_sizes", "16", "--data.batch_size", "8"), "use --batch_sizes"),
        (("--batch_sizes", "16", "--evaluation.metric", "null"), "evaluation.metric is null"),
        (("--batch_sizes", "16", "--objective.temprature", "1"), "objective.temperature"),
    ],
)
def test_wrong_arguments(config, tmp_path, capfd, arguments, says):
    folder = tmp_path / "study"
    parts = ["lab", "scaling", str(config), "--output", str(folder), "--examples", "64"]
    assert main([*parts, *arguments]) == 2
    said = capfd.readouterr().err
    assert says in said and said.count("\n") == 1
    assert not folder.exists()


def test_folders_of_something_else_are_left_alone(config, tmp_path, capfd, no_training):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    assert call(config, folder, *GRID) == 1
    assert "holds files that are not of a study" in capfd.readouterr().err
    (folder / "study.json").write_text(json.dumps({"commands": [], "kind": "another"}))
    assert call(config, folder, *GRID) == 1
    assert "damaged, or of another study" in capfd.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "study.json"]
    assert no_training == []
    with pytest.raises(SimjaxError, match="no study to report on"):
        Study.read(tmp_path)


def test_a_report_alone_takes_no_other_option(tmp_path):
    for option in (["--seeds", "3"], ["--root", "x"], ["recipe.yaml"], ["--data.seed", "1"]):
        parts = ["lab", "scaling", "--output", str(tmp_path), "--report_only", *option]
        assert main(parts) == 2


def test_the_runs_of_a_grid():
    grid = Grid((16, 64), (8, 32, None), ("dcl",), ("constant", "linear"), seeds=(3, 5))
    found = list(settings(grid, 16))
    # At the base batch the rules are one, and a group of 32 is no part of a batch of 16.
    assert found == [
        Setting("dcl", 16, 8, "constant"),
        Setting("dcl", 16, 16, "constant"),
        *(Setting("dcl", 64, group, rule) for group in (8, 32, 64) for rule in grid.lr_rules),
    ]
    keys = list(run_keys(grid, 16))
    assert [key.seed for key in keys] == [3] * 8 + [5] * 8
    assert len({key.folder for key in keys}) == 16
    with pytest.raises(UsageError, match="--seeds: give at least one"):
        check(Grid(seeds=()), command.EXAMPLES)
    check(Grid(), command.EXAMPLES)


def test_a_plan_puts_in_what_the_study_varies(config, tmp_path):
    grid = Grid((16, 32), (None,), ("dcl",), ("sqrt",), seeds=(7,))
    read = recipe.read(config, [])
    plan = recipe.plan(read, grid, tmp_path, examples=64, base_batch=16, micro_batch=8)
    made_of = plan.config(RunKey("dcl", 32, 16, "sqrt", 7))
    assert made_of.seed == made_of.data.seed == 7 and made_of.train.steps == 2
    assert made_of.objective.loss == "dcl" and made_of.objective.negative_group == 16
    assert made_of.optimizer.lr_scaling == "sqrt" and made_of.optimizer.reference_batch_size == 16
    assert made_of.train.micro_batch == 8 and made_of.train.noise_scale
    assert plan.config(RunKey("dcl", 32, 32, "sqrt", 7)).objective.negative_group is None
    assert plan.config(RunKey("dcl", 16, 16, "constant", 7)).optimizer.lr_scaling == "none"
    # By default the learning rate holds at the recipe's own batch.
    default = recipe.plan(read, grid, tmp_path, examples=64, base_batch=None, micro_batch=None)
    assert default.base_batch == 32 and default.micro_batch == 8


@pytest.mark.parametrize("quick", [(), ("--quick",)])
@pytest.mark.parametrize(
    ("data", "group", "micro"), [(1, 64, 64), (2, 64, 64), (4, 32, 32), (8, 16, 16), (-1, 16, 16)]
)
def test_the_defaults_of_the_study_go_with_any_number_of_devices(
    tmp_path, quick, data, group, micro
):
    found = recipe.read(find(recipe.RECIPE), [f"--mesh.data={data}"])
    grid, examples = command.grid_of(asked(*quick), recipe.batch_parts(found))
    assert grid.negative_groups == (group, None)
    plan = recipe.plan(found, grid, tmp_path, examples=examples, base_batch=None, micro_batch=None)
    assert (plan.base_batch, plan.micro_batch, plan.block_size) == (128, micro, micro)
    assert plan.told()["parts"] == plan.parts == (8 if data == -1 else data)
    for key in run_keys(grid, plan.base_batch):
        # As training asks, before it begins.
        made_of = plan.config(key)
        _, blocks = blocks_per_device(
            made_of.data.batch_size, made_of.data.block, made_of.train.micro_batch,
            make_mesh(made_of.mesh),
        )  # fmt: skip
        assert blocks * made_of.data.block == micro
        setup._check_groups(made_of, key.batch // plan.parts)


def test_what_decides_the_results_of_a_study_on_one_device(tmp_path):
    found = recipe.read(find(recipe.RECIPE), ["--mesh.data=1"])
    plan = recipe.plan(found, Grid(), tmp_path, examples=24_576, base_batch=None, micro_batch=None)
    told = plan.told()
    own = {key: value for key, value in told.items() if key != "recipe"}
    assert own == {
        "parts": 1, "examples": 24_576, "base_batch": 128, "micro_batch": 64, "block_size": 64,
    }  # fmt: skip
    assert "root" not in told["recipe"]["data"] and str(tmp_path) not in json.dumps(told)


def test_noise_is_measured_where_a_batch_has_parts(config, tmp_path):
    """A batch that is one micro-batch on one of eight devices has none."""
    grid = Grid((16, 32), (None,), ("dcl",), ("sqrt",), seeds=(0,))
    for data, expected in (("1", [False, True]), ("2", [True, True])):
        found = recipe.read(config, [f"--mesh.data={data}"])
        micro = 16 // int(data)
        plan = recipe.plan(found, grid, tmp_path, examples=64, base_batch=16, micro_batch=micro)
        keys = [RunKey("dcl", batch, batch, "sqrt", 0) for batch in (16, 32)]
        assert [plan.config(key).train.noise_scale for key in keys] == expected


@pytest.mark.slow
def test_runs_on_eight_devices(config, tmp_path):
    grid = Grid((16, 32), (2, None), ("dcl",), ("constant",), seeds=(0,))
    found = recipe.read(config, ["--mesh.data=8", "--optimizer.warmup=0"])
    plan = recipe.plan(found, grid, tmp_path, examples=32, base_batch=16, micro_batch=None)
    assert (plan.micro_batch, plan.block_size) == (2, 2)
    values = runs.Runner(plan.config)(RunKey("dcl", 32, 2, "constant", 0))
    assert values["steps"] == 1 and not values["diverged"] and values["noise"] is not None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--batch_sizes", "4"), "--batch_sizes 4: cannot be shared out among 8 devices"),
        (
            ("--batch_sizes", "16", "32", "--micro_batch", "4"),
            "--batch_sizes 16: a share of 2 for each of 8 devices is no multiple of the "
            "micro-batch of 4; give another --micro_batch",
        ),
        (
            ("--batch_sizes", "16", "32", "--negative_groups", "8"),
            "--negative_groups 8: does not divide the 2 examples that each of 8 devices has of "
            "--batch_sizes 16",
        ),
    ],
)
def test_what_eight_devices_cannot_share(config, tmp_path, capfd, arguments, says):
    folder = tmp_path / "study"
    assert call(config, folder, *arguments, "--mesh.data", "8") == 2
    said = capfd.readouterr().err
    assert says in said and said.count("\n") == 1
    assert not folder.exists()


def asked(*arguments: str) -> argparse.Namespace:
    """A command line."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args([*arguments])


def test_default_groups_give_way_to_batches_and_devices():
    for batches, parts, groups in (
        ([128, 512], 1, (64, None)),
        ([16, 32], 1, (None,)),
        ([96, 192], 1, (None,)),
        ([96, 192], 2, (48, None)),
        ([16, 32], 8, (2, None)),
        # Alone an example has no negatives.
        ([8, 32], 8, (None,)),
        ([4, 32], 8, (None,)),
    ):
        args = asked("--examples", "3072", "--batch_sizes", *map(str, batches))
        assert command.grid_of(args, parts)[0].negative_groups == groups


def test_nothing_to_report_on(tmp_path):
    STUDY.write(tmp_path)
    with pytest.raises(SimjaxError, match="no run is there yet"):
        report.write(tmp_path, Study.read(tmp_path))


def test_the_texts_of_an_evaluation_are_told_apart_by_what_is_judged(tmp_path):
    def of(kind, labels):
        pairs = kind == "sts"
        lines = ["sentence1\tsentence2\tscore" if pairs else "sentence\tlabel"]
        lines += [f"a\tb\t{x}" if pairs else f"a {i}\t{x}" for i, x in enumerate(labels)]
        (tmp_path / "x.tsv").write_text("\n".join(lines))
        found = tasks.load(tasks.EvalConfig((tasks.Task(kind, "x.tsv"),)), tmp_path)
        return inputs._fingerprint("store", found)

    seen = [of(kind, labels) for kind in ("sts", "classification") for labels in ("1100", "0110")]
    assert len(set(seen)) == 4
