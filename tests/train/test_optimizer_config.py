"""Optimisers by name: which options each has, what they may be, and how a recipe says it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import pytest

from simjax.errors import UsageError
from simjax.train import config as run_config
from simjax.train import recipe_keys
from simjax.train.config import RunConfig
from simjax.train.optimizer_config import (
    SGD,
    Adafactor,
    AdamW,
    Lamb,
    Lars,
    Muon,
    OptimizerConfig,
    ScheduleFreeAdamW,
)

RECIPE = "output: runs/first\ntokenizer: {source: train}\noptimizer:\n"


def load(folder: Path, options: str, *overrides: str) -> OptimizerConfig:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE + options)
    return run_config.load(path, overrides).optimizer


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (AdamW, {"name": "sgd"}),
        (AdamW, {"learning_rate": 0.0}),
        (AdamW, {"learning_rate": math.nan}),
        (AdamW, {"lr_scaling": "log"}),
        (AdamW, {"reference_batch_size": 0}),
        (AdamW, {"schedule": "step"}),
        (AdamW, {"warmup": -0.1}),
        (AdamW, {"warmup": 1.5}),
        (AdamW, {"weight_decay": -1.0}),
        (AdamW, {"b1": 1.0}),
        (AdamW, {"b2": 1.0}),
        (AdamW, {"eps": 0.0}),
        (AdamW, {"clip_norm": 0.0}),
        (AdamW, {"layer_decay": 0.0}),
        (AdamW, {"layer_decay": 1.1}),
        (Lars, {"trust_coefficient": 0.0}),
        (SGD, {"momentum": 1.0}),
        (Adafactor, {"decay_exponent": 0.0}),
        (Adafactor, {"clip_rms": 0.0}),
        (Adafactor, {"factored_from": 0}),
        (Muon, {"iterations": 0}),
        (Muon, {"update_rms": 0.0}),
        (ScheduleFreeAdamW, {"schedule": "linear"}),
        (ScheduleFreeAdamW, {"b1": 0.0}),
        (ScheduleFreeAdamW, {"averaging_power": -1.0}),
    ],
)
def test_values_out_of_range(kind, wrong):
    with pytest.raises(UsageError, match=f"optimizer.{next(iter(wrong))} is "):
        kind(**wrong)


def test_adamw_is_what_nobody_asked_for(tmp_path):
    assert load(tmp_path, "  b1: 0.8\n") == AdamW(b1=0.8)
    assert RunConfig("x").optimizer == AdamW()


@pytest.mark.parametrize("kind", get_args(OptimizerConfig))
def test_each_is_found_by_its_name_and_written_back(tmp_path, kind):
    config = load(tmp_path, f"  {{name: {kind().name}, learning_rate: 0.5}}\n")
    assert config == kind(learning_rate=0.5)
    text = run_config.dump(RunConfig("x", optimizer=config))
    (tmp_path / "again.yaml").write_text(text.replace("source: null", "source: train", 1))
    assert run_config.load(tmp_path / "again.yaml").optimizer == config


def test_the_command_line_names_another_one_in_any_order(tmp_path):
    overrides = ["--optimizer.trust_coefficient=0.5", "--optimizer.name=lars"]
    for order in (overrides, overrides[::-1]):
        assert load(tmp_path, "  {learning_rate: 2}\n", *order) == Lars(
            learning_rate=2.0, trust_coefficient=0.5
        )


@pytest.mark.parametrize(
    ("options", "overrides", "where", "names"),
    [
        (
            "  name: adam\n",
            [],
            "recipe.yaml:4: ",
            "optimizer.name must be one of adamw, lamb, lars",
        ),
        ("  name: [lamb]\n", [], "recipe.yaml:4: ", "optimizer.name must be one of adamw"),
        (
            "  name: muon\n  factored_from: 3\n",
            [],
            "recipe.yaml:5: ",
            "optimizer.factored_from is a key of adafactor, and optimizer.name is muon",
        ),
        ("  momentun: 0.5\n", [], "recipe.yaml:4: ", "no such key 'optimizer.momentun'"),
        (
            "  b1: 0.5\n",
            ["--optimizer.name=sgd"],
            "recipe.yaml:4: ",
            "optimizer.b1 is a key of adamw, lamb, muon, schedule_free_adamw",
        ),
        (
            "  b1: 0.5\n",
            ["--optimizer.momentun=1"],
            "--optimizer.momentun: ",
            "did you mean --optimizer.momentum?",
        ),
        (
            "  name: schedule_free_adamw\n",
            ["--optimizer.schedule=linear"],
            "--optimizer.schedule: ",
            "optimizer.schedule must be constant, not 'linear'",
        ),
        ("  name: lamb\n  b2: 1\n", [], "recipe.yaml:5: ", "optimizer.b2 is 1"),
        ("  5\n", [], "recipe.yaml:4: ", "optimizer must hold keys (of name, learning_rate"),
    ],
)
def test_complaints_name_the_optimizer(tmp_path, options, overrides, where, names):
    with pytest.raises(UsageError) as caught:
        load(tmp_path, options, *overrides)
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(where)
    assert names in str(caught.value)


def test_the_help_tells_whose_keys_and_defaults_they_are():
    told = {key: (allowed, default) for key, allowed, default in recipe_keys.keys(RunConfig)}
    assert told["optimizer.name"][1] == '"adamw"'
    assert told["optimizer.name"][0].endswith("muon, schedule_free_adamw, sgd, rmsprop")
    assert told["optimizer.warmup"] == ("a number", "0.1")
    assert told["optimizer.trust_coefficient"] == ("a number", "0.001 for lars")
    assert "5e-05 for adamw, muon" in told["optimizer.learning_rate"][1]
    assert "0.01 for sgd" in told["optimizer.learning_rate"][1]
    assert told["data.batch_size"] == ("a whole number", "512")
    assert told["output"] == ("text", "needed")
    assert Lamb().learning_rate == 1e-3


def test_the_help_tells_of_groups_within_groups_once():
    told = {key: (allowed, default) for key, allowed, default in recipe_keys.keys(RunConfig)}
    assert told["objective.r_drop"] == ("a group of keys or null", "null for softmax")
    assert told["objective.r_drop.form"] == ("one of paper, repository", '"paper"')
    assert told["evaluation.tasks"] == ("a list of groups of keys", "[]")
    assert told["evaluation.tasks[n].path"] == ("text or null", "null")
    assert told["data.sources"] == ("a list of groups of keys, as data.source", "[]")
    assert not [key for key in told if key.startswith("data.sources[")]
    assert told["objective.label_spaces"][0] == "a list of lists of texts"
