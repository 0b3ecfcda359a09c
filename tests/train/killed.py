"""Trains until a step has been taken and the checkpoint before it is whole, and is killed there.

python -m tests.train.killed train RECIPE STEP
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from simjax.checkpoint import manifest
from simjax.cli.main import main
from simjax.train import config as run_config
from simjax.train import loop
from tests.train.tiny_run import StopAfter


class Kill(StopAfter):
    """Stands for `StopRequest`, which a run asks after each step."""

    checkpoints: Path

    @property
    def requested(self) -> bool:
        if super().requested:
            while not any(self.checkpoints.glob(f"[0-9]*/{manifest.NAME}")):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return False


if __name__ == "__main__":
    command, recipe, step = sys.argv[1:]
    Kill.steps = int(step)
    Kill.checkpoints = Path(run_config.load(recipe).output) / "checkpoints"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "StopRequest", Kill)
        sys.exit(main([command, recipe]))
