"""The command from its arguments to its report, on a made-up corpus."""

import argparse
import csv
import dataclasses
import os
import re
import signal

import pytest

from simjax.cli.main import main
from simjax.errors import SimjaxError, UsageError
from simjax.lab.precision import arithmetic, arms, command, plots, texts, training
from simjax.lab.precision.settings import ArithmeticSettings, TrainingSettings
from simjax.lab.precision.study import Study
from tests.lab.precision.tiny_corpus import CORPUS, TINY, TINY_ARITHMETIC

TWO_ARMS = dataclasses.replace(TINY, arms=("cross_entropy", "flatnce"), warm_up_steps=0)
MEASURED = ("study.json", "arithmetic.jsonl", "runs.jsonl", "checks.jsonl")
COINCIDE = {"parameters": 0.0, "moved": 1.0, "steps": 2}


@pytest.fixture
def tiny(monkeypatch):
    """The command measures next to nothing."""
    monkeypatch.setattr(texts, "load", lambda root: CORPUS)
    monkeypatch.setattr(arithmetic, "arithmetics", lambda: (arms.FLOAT32,))
    monkeypatch.setattr(training.Trainer, "dcl_difference", lambda self, batch, rate: COINCIDE)
    monkeypatch.setattr(command, "settings_of", lambda args: (TINY_ARITHMETIC, TWO_ARMS))


def parse(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def test_a_study_from_start_to_report(tiny, tmp_path, capfd, monkeypatch):
    folder = tmp_path / "study"
    call = ("lab", "precision", "--output", str(folder), "--root", str(tmp_path))
    real = training.Trainer.run
    made = []

    def interrupted(self, key):
        made.append(key)
        if len(made) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, key)

    monkeypatch.setattr(training.Trainer, "run", interrupted)
    assert main(call) == 0
    assert "SIGINT: 5 measurements are kept" in capfd.readouterr().err
    assert not (folder / "report.html").exists()

    # The run that the signal fell into was finished; the others follow, none is made again.
    assert main(call) == 0
    assert len(made) == 4 == len(set(made))
    shown = capfd.readouterr().err
    assert "5 measurements are there already" in shown
    assert "How much of InfoNCE's trouble" in shown

    page = (folder / "report.html").read_text()
    assert "simjax lab precision --root DATA" in page
    for said in (
        "All together (FlatNCE minus cross-entropy): ",
        "Over 1 setting ",
        "they coincide",
        "not measured",
    ):
        assert said in page
    assert "tf32 is absent" in page
    # It needs no other file and tells nobody's folders.
    assert set(re.findall(r'(?:src|href)="([^"]{5})', page)) == {"data:", "#part"}
    assert "not finished" not in page and "`" not in page
    assert str(tmp_path) not in page and "http" not in page
    pictures = {path.stem for path in folder.glob("*.png")}
    assert pictures == set(re.findall(r'<img alt="(\w+)"', page))
    assert {"errors_by_batch", "scores_spearman", "differences_ndcg", "courses"} <= pictures
    with (folder / "runs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    with (folder / "history.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4 * 2
    assert {"arithmetic.csv", "exact.csv", "comparisons.csv"} <= set(os.listdir(folder))
    assert not [name for name in os.listdir(folder) if name.endswith(".partial")]

    # From the measurements alone.
    (folder / "report.html").unlink()
    monkeypatch.setattr(arithmetic, "measure", None)
    monkeypatch.setattr(training, "Trainer", None)
    kept = {name: (folder / name).read_bytes() for name in MEASURED}
    only = (*call[:4], "--report_only")
    assert main(only) == 0
    assert (folder / "report.html").read_text() == page
    # Of an unfinished study, while somebody may be writing to it.
    lines = kept["runs.jsonl"].splitlines(keepends=True)
    (folder / "runs.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:30])
    kept["runs.jsonl"] = (folder / "runs.jsonl").read_bytes()
    capfd.readouterr()
    monkeypatch.setattr(plots, "png", lambda figure: b"")  # Drawing takes most of the time.
    assert main(only) == 0
    assert "not finished: 4 of 6 measurements" in capfd.readouterr().err
    page = (folder / "report.html").read_text()
    assert "not finished: 4 of 6" in page and "SGD, float32, batch 4 (FlatNCE)" in page
    assert kept == {name: (folder / name).read_bytes() for name in MEASURED}

    monkeypatch.setattr(
        command,
        "settings_of",
        lambda args: (TINY_ARITHMETIC, dataclasses.replace(TWO_ARMS, width=16)),
    )
    assert main(call) == 1
    assert "runs.jsonl:1: measured with other settings" in capfd.readouterr().err


def test_without_a_study_there_is_no_report(tmp_path):
    with pytest.raises(SimjaxError, match="no study to report on"):
        command.run(parse("--output", tmp_path, "--report_only"))
    assert not list(tmp_path.iterdir())
    for damaged in ("{", "[]", "5", "null", '{"commands": []}'):
        (tmp_path / "study.json").write_text(damaged)
        for more in (["--report_only"], []):
            with pytest.raises(SimjaxError, match="damaged"):
                command.run(parse("--output", tmp_path, *more))
        assert (tmp_path / "study.json").read_text() == damaged
    (tmp_path / "study.json").unlink()
    (tmp_path / "study.json").mkdir()
    with pytest.raises(SimjaxError, match="cannot be read"):
        command.run(parse("--output", tmp_path, "--report_only"))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "runs.jsonl").write_text("mine")
    with pytest.raises(SimjaxError, match="not of a study"):
        command.run(parse("--output", tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["runs.jsonl"]
    assert (tmp_path / "runs.jsonl").read_text() == "mine"


def test_options_that_a_report_would_ignore_are_refused(tmp_path):
    for option in (("--seeds", 3), ("--root", tmp_path), ("--batches", 4)):
        with pytest.raises(UsageError, match=f"leave {option[0]} out"):
            command.run(parse("--output", tmp_path, "--report_only", *option))


def test_a_batch_that_cannot_be_filled_fails_before_anything_is_measured(
    tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr(arithmetic, "measure", None)
    large = dataclasses.replace(TWO_ARMS, batches=(64,))
    monkeypatch.setattr(command, "settings_of", lambda args: (TINY_ARITHMETIC, large))
    with pytest.raises(SimjaxError, match="--batches 64"):
        command.run(parse("--output", tmp_path))


def test_a_study_remembers_what_earlier_commands_asked_for(tmp_path):
    def study(seeds):
        training_settings = TrainingSettings(batches=(4,), seeds=seeds, easy_batches=())
        return Study(
            ["simjax"], {"device": "cpu"}, "words", {"pairs": 1, "held out": 1},
            dataclasses.asdict(TINY_ARITHMETIC), dataclasses.asdict(training_settings),
            dict.fromkeys(("arithmetic.jsonl", "runs.jsonl", "checks.jsonl"), "a"),
        )  # fmt: skip

    for seeds in (3, 2, 2):
        study(seeds).write(tmp_path)
    found = Study.read(tmp_path)
    assert found.training["seeds"] == 2 and len(found.earlier) == 1
    assert set(found.planned()[1]) == set(study(3).planned()[1])


def test_arguments():
    arithmetic_settings, training_settings = command.settings_of(parse())
    assert arithmetic_settings == ArithmeticSettings()
    assert training_settings == TrainingSettings()
    args = parse("--batches", 8, 4, 8, "--arithmetic_batches", 2, "--seeds", 7)
    arithmetic_settings, training_settings = command.settings_of(args)
    assert training_settings == TrainingSettings(batches=(4, 8), seeds=7, easy_batches=(4,))
    assert arithmetic_settings.batches == (2,)
    quick = command.settings_of(parse("--quick"))
    assert max(quick[0].batches) <= 1024 and len(quick[1].batches) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--batches", 1), "--batches 1: "),
        (("--arithmetic_batches", 1), "--arithmetic_batches 1: "),
        (("--batches", 40), "multiple of 32"),
    ],
)
def test_wrong_arguments(arguments, said):
    with pytest.raises(UsageError, match=said):
        command.settings_of(parse(*arguments))


def test_a_folder_without_data_is_one_line(tmp_path):
    with pytest.raises(SimjaxError, match="--root names a folder of data sets"):
        texts.load(tmp_path)
