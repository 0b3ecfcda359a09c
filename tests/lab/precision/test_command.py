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
from simjax.lab.precision import arithmetic, arms, command, texts, training
from simjax.lab.precision.settings import ArithmeticSettings, TrainingSettings
from tests.lab.precision.tiny_corpus import CORPUS, TINY, TINY_ARITHMETIC

TWO_ARMS = dataclasses.replace(TINY, arms=("cross_entropy", "flatnce"), warm_up_steps=0)
COINCIDE = {"parameters": 0.0, "moved": 1.0, "steps": 2, "batch": 4}


@pytest.fixture
def tiny(monkeypatch):
    """The command measures next to nothing."""
    monkeypatch.setattr(texts, "load", lambda root: CORPUS)
    monkeypatch.setattr(arithmetic, "arithmetics", lambda: (arms.FLOAT32,))
    monkeypatch.setattr(training.Trainer, "dcl_difference", lambda self: COINCIDE)
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
        "FlatNCE minus cross-entropy): over all 1 settings",
        "they coincide",
        "not measured",
    ):
        assert said in page
    assert "tf32 is absent" in page
    # It needs no other file and tells nobody's folders.
    assert set(re.findall(r'(?:src|href)="([^"]{5})', page)) == {"data:"}
    assert str(tmp_path) not in page and "http" not in page
    pictures = {path.stem for path in folder.glob("*.png")}
    assert pictures == set(re.findall(r'<img alt="(\w+)"', page))
    assert {"errors_by_batch", "scores_spearman", "differences_ndcg", "courses"} <= pictures
    with (folder / "runs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    assert {"arithmetic.csv", "exact.csv", "comparisons.csv"} <= set(os.listdir(folder))

    # From the measurements alone.
    (folder / "report.html").unlink()
    monkeypatch.setattr(arithmetic, "measure", None)
    monkeypatch.setattr(training, "Trainer", None)
    assert main((*call, "--report_only")) == 0
    assert (folder / "report.html").read_text() == page

    monkeypatch.setattr(
        command, "settings_of", lambda args: (TINY_ARITHMETIC, TrainingSettings(width=16))
    )
    assert main(call) == 1
    assert "runs.jsonl:1: measured with other settings" in capfd.readouterr().err


def test_without_a_study_there_is_no_report(tmp_path):
    with pytest.raises(SimjaxError, match="no study to report on"):
        command.run(parse("--output", tmp_path, "--report_only"))
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(SimjaxError, match="damaged"):
        command.run(parse("--output", tmp_path, "--report_only"))


def test_arguments():
    arithmetic_settings, training_settings = command.settings_of(parse())
    assert arithmetic_settings == ArithmeticSettings()
    assert training_settings == TrainingSettings()
    args = parse("--batches", 8, 4, 8, "--arithmetic_batches", 2, "--seeds", 7)
    arithmetic_settings, training_settings = command.settings_of(args)
    assert training_settings == TrainingSettings(batches=(4, 8), seeds=7)
    assert arithmetic_settings.batches == (2,)
    assert command.command_line(args) == (
        "simjax lab precision --arithmetic_batches 2 --batches 8 4 8 --seeds 7"
    )
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
