"""Runs that were made up."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from simjax.lab.records import Record
from simjax.lab.views.arms import Grid, RunKey, run_keys
from simjax.lab.views.tables import Outcomes

METRIC = "sts-dev/spearman"
GRID = Grid(("dropout", "crop20", "delete10", "none", "temperature0.1"), seeds=(0, 1, 2))
SPREAD = 0.3
"""Standard deviation of what runs differ by beside their arm."""


def run(key: RunKey, score: float, **changes: Any) -> Record:
    """A run that goes from 40 to its score, and from alignment 1 to 0.5, in two evaluations."""

    def scores(value: float, alignment: float, uniformity: float) -> dict[str, float]:
        geometry = {"sts-dev/alignment": alignment, "sts-dev/uniformity": uniformity}
        return {METRIC: value} | geometry

    values = {
        "scores": scores(score, 0.5, -2.0),
        "diverged": False,
        "steps": 12,
        "loss": 1.0,
        "pairs_per_second": 100.0,
        "memory": 1_000_000,
        "noise": None,
        "signal": None,
        "noise_parts": [],
        "signal_parts": [],
        "trajectory": [
            {"step": 0} | scores(40.0, 1.0, -1.0),
            {"step": 12} | scores(score, 0.5 + 0.1 * key.seed, -2.0),
        ],
    }
    return Record(dataclasses.asdict(key), values | changes)


def records(means: Mapping[str, float], grid: Grid = GRID) -> list[Record]:
    """A run of each key: 50, what is added for its arm, and a draw of its own."""
    return [
        run(key, 50 + means.get(key.arm, 0.0) + np.random.default_rng(place).normal(0, SPREAD))
        for place, key in enumerate(run_keys(grid))
    ]


def outcomes(made: list[Record], grid: Grid = GRID) -> Outcomes:
    return Outcomes.of(made, list(run_keys(grid)), METRIC)
