"""The study of views as its folder describes it, and how its runs are measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simjax.lab.records import Record
from simjax.lab.sweep import runs, study
from simjax.lab.views.arms import Grid, RunKey, run_keys
from simjax.train import finish
from simjax.train import metrics as metrics_file

TOLD_BY = frozenset({"command", "plots", "report", "tables"})
"""Modules that tell what was measured, and measure nothing themselves."""


@dataclass(frozen=True)
class Study(study.Study):
    """As of any sweep; `told` is that of `Plan.told`."""

    kind: str = "views"

    def keys(self, grid: dict[str, Any]) -> Iterable[RunKey]:
        """The runs of one of `grids`."""
        return run_keys(Grid.of(grid))

    def key(self, fields: dict[str, Any]) -> RunKey:
        """A run by the key of its record."""
        return RunKey(**fields)

    def _check(self, record: Record) -> None:
        super()._check(record)
        for point in record.values["trajectory"]:
            int(point["step"])


class Runner(runs.Runner[RunKey]):
    """Trains the runs of a study, and keeps how their scores went."""

    def __call__(self, key: RunKey) -> dict[str, Any]:
        """As of any sweep, with `trajectory`: scores at steps, from the start to the last one.

        What is scored is the last step: a run keeps its best one, which would be chosen by the set
        that judges it.
        """
        values = super().__call__(key)
        folder = Path(self._configure(key).output)
        found = trajectory(metrics_file.read(folder / metrics_file.FILE))
        if not values["diverged"]:
            values["scores"] = {k: v for k, v in found[-1].items() if k != "step"}
        return values | {"trajectory": found}


def trajectory(lines: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The scores of each evaluation in a run's metrics, with its step."""
    found = []
    for line in lines:
        scores = {
            name.removeprefix(finish.EVALUATION): value
            for name, value in line.items()
            if name.startswith(finish.EVALUATION) and value is not None
        }
        if scores:
            found.append({"step": line["step"], **scores})
    return found
