"""What the user chooses about checkpoints. Kept free of heavy imports for the command line."""

from __future__ import annotations

from dataclasses import dataclass

from simjax.errors import UsageError


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written and which of them stay.

    Attributes:
        every: steps between two checkpoints; the last step is always saved. 0 saves only then.
        keep: how many of the newest checkpoints stay, at least 2 (1 where only the last step is
            saved); the best one by `evaluation.metric` stays as well.
        mirror: URL (gs://, s3://) or folder where each checkpoint is copied to in the background,
            with what else going on needs; a run whose `output` is empty, or behind, goes on from
            there. One run has it to itself. null copies nothing.
    """

    every: int = 500
    keep: int = 2
    mirror: str | None = None

    def __post_init__(self) -> None:
        if self.every < 0:
            raise UsageError(f"checkpoint.every is {self.every}: give 0 or more steps")
        if self.keep < 1:
            raise UsageError(f"checkpoint.keep is {self.keep}: keep at least 1 checkpoint")
        if self.mirror is not None and not self.mirror.strip():
            raise UsageError("checkpoint.mirror is empty: give a URL or a folder, or null")
