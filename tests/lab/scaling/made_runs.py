"""Runs that were made up."""

from __future__ import annotations

import dataclasses
from typing import Any

from simjax.lab.records import Record
from simjax.lab.scaling.grid import Grid, RunKey, Setting, run_keys
from simjax.lab.scaling.study import Study
from simjax.lab.scaling.tables import Outcomes

METRIC = "dev/spearman"
GRID = Grid((64, 256), (32, None), ("infonce", "dcl"), ("constant", "sqrt"), seeds=(0, 1, 2))
STUDY = Study(
    ["simjax"], {"device": "cpu"}, "x.yaml",
    {"base_batch": 64, "micro_batch": 32, "parts": 1,
     "recipe": {"objective": {"temperature": 0.05}}},
    "sts-dev/spearman", [{"batch_sizes": [64], "negative_groups": [None], "objectives": ["dcl"],
    "lr_rules": ["sqrt"], "seeds": [0]}], "a", [],
)  # fmt: skip
WOBBLE = (0.3, -0.2, -0.1)
"""What the seeds of a setting differ by."""


def run(key: RunKey, score: float, **changes: Any) -> Record:
    values = {
        "scores": {METRIC: score, "dev/alignment": 0.4, "dev/uniformity": -2.0},
        "diverged": False,
        "steps": 12,
        "loss": 1.0,
        "pairs_per_second": 100.0 + key.seed,
        "memory": 1_000_000 * key.batch,
        "noise": 3.0,
        "signal": 1.0,
        "noise_parts": [2.0, 4.0],
        "signal_parts": [1.0, 1.0],
    }
    return Record(dataclasses.asdict(key), values | changes)


def records(means: dict[str, float], *, noise: float = 1.0, grid: Grid = GRID) -> list[Record]:
    """A run of each key: 50, what `means` adds, and what its seed adds, unlike for each setting.

    Args:
        means: Added where a setting has this word: `large` (256), `whole`, `sqrt`, `dcl`.
        noise: What `WOBBLE` is multiplied by.
        grid: The keys.
    """
    found = []
    for place, key in enumerate(run_keys(grid, 64)):
        words = words_of(key.setting)
        score = 50 + sum(means[word] for word in words if word in means)
        found.append(run(key, score + noise * WOBBLE[(place + key.seed) % 3]))
    return found


def words_of(setting: Setting) -> set[str]:
    said = {setting.objective, setting.lr_rule}
    said |= {"large"} if setting.batch == 256 else set()
    return said | ({"whole"} if setting.group == setting.batch else set())


def outcomes(made: list[Record], grid: Grid = GRID, metric: str = METRIC) -> Outcomes:
    return Outcomes.of(
        made, list(run_keys(grid, 64)), metric, micro_batch=32, parts=1, base_batch=64
    )
