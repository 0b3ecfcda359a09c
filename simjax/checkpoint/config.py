"""What the user chooses about checkpoints. Kept free of heavy imports for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simjax.errors import UsageError


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written and which of them stay.

    Attributes:
        every: steps between two checkpoints; the last step is always saved. 0 saves only then.
        keep: how many of the newest checkpoints stay, at least 1.
        best_metric: name of the metric whose best checkpoint stays as well; null keeps no best.
        best_mode: whether the best value of that metric is the highest (max) or lowest (min).
    """

    every: int = 500
    keep: int = 2
    best_metric: str | None = None
    best_mode: Literal["max", "min"] = "max"

    def __post_init__(self) -> None:
        if self.every < 0:
            raise UsageError(f"checkpoint.every is {self.every}: give 0 or more steps")
        if self.keep < 1:
            raise UsageError(f"checkpoint.keep is {self.keep}: keep at least 1 checkpoint")
        if self.best_mode not in ("max", "min"):
            raise UsageError(f"checkpoint.best_mode is {self.best_mode!r}: give max or min")
