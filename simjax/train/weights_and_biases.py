"""The figures of a run at Weights & Biases, for those who ask for it (`train.wandb`)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simjax.errors import SimjaxError, UsageError

ID = "wandb.id"
"""File of a run folder: under which id the run is known there, for when it goes on."""


class WandbRun:
    """A run of a project. WANDB_MODE=offline, which the library reads, keeps it on this machine."""

    def __init__(self, project: str, folder: Path, config: Mapping[str, Any]) -> None:
        """Starts the run, or goes on with it where the folder was trained in before.

        Raises:
            UsageError: wandb is not installed.
            SimjaxError: It cannot start a run.
        """
        try:
            import wandb
        except ImportError as error:
            raise UsageError(
                f"train.wandb is {project!r} and wandb cannot be imported ({error}); "
                "pip install 'simjax[wandb]', or leave train.wandb out"
            ) from error
        path = folder / ID
        if not path.exists():
            path.write_text(secrets.token_hex(8), encoding="utf-8")
        try:
            self._run: Any = wandb.init(
                project=project,
                name=folder.name,
                id=path.read_text(encoding="utf-8").strip(),
                resume="allow",
                dir=str(folder),
                config=dict(config),
            )
        except wandb.Error as error:
            told = " ".join(str(error).split())
            raise SimjaxError(
                f"train.wandb: the run cannot be started ({told}); set WANDB_MODE=offline to keep "
                "it on this machine, or leave train.wandb out"
            ) from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Records figures of ``step``. Of a step that was recorded before, the first ones stay."""
        self._run.log(dict(values), step=step)

    def close(self, *, failed: bool) -> None:
        """Ends the run, as a failed one or a good one."""
        self._run.finish(exit_code=int(failed))
