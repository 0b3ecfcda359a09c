"""A run that ends before its time."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from simjax.train import loop
from simjax.train.early_stopping import EarlyStopping
from tests.train.test_loop import StopAfter
from tests.train.tiny_run import lines, recipe, saved_steps, train


def walked(watch: EarlyStopping, scores: list[float]) -> list[bool]:
    reached = []
    for score in scores:
        watch = watch.after(score)
        reached.append(watch.reached)
    return reached


@pytest.mark.parametrize(
    ("watch", "scores", "stops"),
    [
        (EarlyStopping(2), [1, 2, 2, 3, 3, 2.9], [5]),
        (EarlyStopping(1, min_change=0.5), [1, 1.6, 2.1], [2]),
        (EarlyStopping(1, min_change=0.5), [1, 1.6, 2.2], []),
        (EarlyStopping(2, higher_is_better=False), [1, 2, 0.5, 0.5, 0.4, 1, 1], [6]),
        (EarlyStopping(2), [math.nan, 1, math.nan, math.nan], [3]),
        (EarlyStopping(None), [1, 0, 0, 0], []),
    ],
)
def test_stops_after_so_many_evaluations_that_were_no_better(watch, scores, stops):
    assert [n for n, reached in enumerate(walked(watch, scores)) if reached] == stops


def test_it_is_as_it_was_when_a_checkpoint_was_saved():
    watch = EarlyStopping(3, 0.1)
    for score in (1.0, 2.0, 2.05, 1.0):
        assert EarlyStopping(3, 0.1).restored(watch.figures()) == watch
        watch = watch.after(score)
    assert EarlyStopping(None).after(1.0).figures() == {}


SCORES = [9.0, 1.0, 3.0, 2.0, 3.0, 2.5, 8.0]
"""Before the first step, and after each: step 2 is the best, and step 5 the third worse one."""


@pytest.mark.parametrize(
    "stopped_at", [pytest.param(n, marks=pytest.mark.slow) for n in (None, 3, 4)]
)
def test_a_run_ends_where_it_would_have_however_often_it_was_stopped(
    data, tmp_path, monkeypatch, stopped_at
):
    config = recipe(data, tmp_path / "run")
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, patience=3),
        evaluation=dataclasses.replace(config.evaluation, every=1),
    )

    def scripted(*_):
        name = "sts-dev/spearman"
        seen = {line["step"] for line in lines(Path(config.output)) if f"eval/{name}" in line}
        return {name: SCORES[len(seen)]}

    monkeypatch.setattr(loop.tasks, "run", scripted)
    if stopped_at is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "StopRequest", StopAfter)
            patch.setattr(StopAfter, "steps", stopped_at)
            assert train(config) == {"steps": stopped_at, "stopped": "SIGTERM"}
    returned = train(config)
    assert returned["steps"] == 5 and returned["best_step"] == 2
    assert saved_steps(config) == {2, 4, 5}
    assert max(line["step"] for line in lines(Path(config.output))) == 5
    # Once more, and nothing is trained.
    said = Console(file=io.StringIO(), width=200)
    again = train(config, console=said)
    assert again["steps"] == 5 and again["best_step"] == 2
    assert (
        "stopping early, sts-dev/spearman has been no better for 3 evaluations"
        in said.file.getvalue()
    )
    assert max(line["step"] for line in lines(Path(config.output))) == 5
    # With more patience it goes on.
    if stopped_at == 4:
        patient = dataclasses.replace(config, train=dataclasses.replace(config.train, patience=9))
        monkeypatch.setattr(loop.tasks, "run", lambda *_: {"sts-dev/spearman": 8.0})
        assert train(patient)["steps"] > 5
