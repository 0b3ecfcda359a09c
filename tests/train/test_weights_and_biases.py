"""What Weights & Biases is told, by a stand-in that takes what the library takes."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest

from simjax.errors import SimjaxError, UsageError
from simjax.train import finish
from simjax.train.config import ModelConfig, RunConfig, TrainConfig
from simjax.train.metrics import MetricsWriter


class Run:
    """Keeps what it is given, each step's first values, as the service does."""

    def __init__(self, settings: dict) -> None:
        self.settings = settings
        self.steps: dict[int, dict] = {}
        self.exit_code: int | None = None

    def log(self, data: dict, step: int | None = None) -> None:
        assert self.exit_code is None and all(type(x) in (int, float) for x in data.values())
        assert type(step) is int
        if step >= max(self.steps, default=0):
            self.steps[step] = data | self.steps.get(step, {})

    def finish(self, exit_code: int | None = None) -> None:
        self.exit_code = exit_code


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("wandb")
    runs: dict[str, Run] = {}

    class Error(Exception):
        pass

    def init(*, project, name, id, resume, dir, config):
        if project == "closed":
            raise Error("api_key not configured\n(no-tty)")
        json.dumps(config)
        assert Path(dir).is_dir() and resume == "allow"
        run = runs.setdefault(id, Run({"project": project, "name": name, "config": config}))
        run.exit_code = None
        return run

    module.init, module.Error, module.runs = init, Error, runs
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def configured(folder: Path, project: str | None) -> RunConfig:
    model = ModelConfig(pretrained="/home/somebody/models/minilm")
    return RunConfig(str(folder), model=model, train=TrainConfig(wandb=project))


def write(config: RunConfig, steps: Iterable[int], resume: int | None = None) -> None:
    folder = Path(config.output)
    wandb = finish.open_wandb(folder, config)
    with MetricsWriter(folder, resume_step=resume, tensorboard=False, wandb=wandb) as writer:
        for step in steps:
            writer.write(step, {"loss": step + 0.5, "bad": math.nan})
            writer.write(step, {"eval/sts/spearman": step})


def test_a_run_and_its_continuation_are_one_run(wandb, tmp_path):
    config = configured(tmp_path, "sentences")
    write(config, range(0, 4))
    write(config, range(3, 6), resume=2)
    (run,) = wandb.runs.values()
    assert run.steps == {n: {"loss": n + 0.5, "eval/sts/spearman": n} for n in range(6)}
    assert run.exit_code == 0
    assert run.settings["project"] == "sentences" and run.settings["name"] == tmp_path.name
    assert run.settings["config"]["optimizer"]["name"] == "adamw"
    # It tells nobody where things lie on this machine.
    assert run.settings["config"]["model"]["pretrained"] == "minilm"
    assert str(tmp_path) not in json.dumps(run.settings["config"])


def test_a_run_that_fails_is_ended_as_one(wandb, tmp_path):
    with pytest.raises(ZeroDivisionError):
        write(configured(tmp_path, "sentences"), (1 // n for n in (1, 0)))
    (run,) = wandb.runs.values()
    assert run.exit_code == 1


def test_nobody_who_did_not_ask_is_connected(wandb, tmp_path):
    write(configured(tmp_path, None), range(2))
    assert wandb.runs == {} and not (tmp_path / "wandb.id").exists()


def test_what_keeps_it_from_starting_is_told(wandb, tmp_path, monkeypatch):
    with pytest.raises(SimjaxError, match=r"api_key not configured \(no-tty\).*WANDB_MODE=off"):
        write(configured(tmp_path, "closed"), range(2))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"train\.wandb is 'x'.*pip install 'simjax\[wandb\]'"):
        write(configured(tmp_path, "x"), range(2))


@pytest.mark.slow
def test_the_library_itself_takes_it_offline(tmp_path, monkeypatch):
    """Where it is installed."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    write(configured(tmp_path, "sentences"), range(3))
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
