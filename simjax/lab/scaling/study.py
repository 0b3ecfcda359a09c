"""The batch-size study as its folder describes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from simjax.lab.scaling.grid import Grid, RunKey, run_keys
from simjax.lab.sweep import study

TOLD_BY = frozenset({"command", "conclusions", "contrasts", "noise", "plots", "report", "tables"})
"""Modules that tell what was measured, and measure nothing themselves."""


@dataclass(frozen=True)
class Study(study.Study):
    """As of any sweep; `told` is that of `Plan.told`."""

    kind: str = "batch-size scaling"

    def keys(self, grid: dict[str, Any]) -> Iterable[RunKey]:
        """The runs of one of `grids`."""
        return run_keys(Grid.of(grid), self.told["base_batch"])

    def key(self, fields: dict[str, Any]) -> RunKey:
        """A run by the key of its record."""
        return RunKey(**fields)
