"""`launch/local.py` brings a run back after a kill, and it comes to the same bits."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from simjax.eval.tasks import EvalConfig
from simjax.mesh import MeshConfig
from simjax.train import config as run_config
from simjax.train.config import RunConfig, TrainConfig
from tests.processes.started import QUICK, Started, comes_to
from tests.train.conftest import data
from tests.train.tiny_run import (
    BLOCK,
    assert_same_bits,
    environment,
    figures,
    recipe,
    saved_steps,
    state_at,
)

__all__ = ["data"]
LAUNCHER = Path(__file__).parents[2] / "launch" / "local.py"


def launch(config: RunConfig, folder: Path) -> Started:
    folder.mkdir()
    path = folder / "recipe.yaml"
    path.write_text(run_config.dump(config), encoding="utf-8")
    printed = folder / "printed"
    with printed.open("wb") as file:
        process = subprocess.Popen(
            [
                *(sys.executable, str(LAUNCHER), "--processes", "2", "--cpu_devices", "1"),
                *("--max_restarts", "1", "train", str(path), "--heartbeat_timeout=15"),
            ],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment() | {"PYTHONPATH": os.getcwd()} | QUICK,
        )
    return Started(process, printed)


@pytest.mark.multiprocess
@pytest.mark.faults
def test_a_killed_process_costs_a_restart_and_no_bit(data, tmp_path):
    config = recipe(
        data,
        tmp_path / "run",
        evaluation=EvalConfig(),
        mesh=MeshConfig(2, 1),
        train=TrainConfig(epochs=8, micro_batch=BLOCK, log_every=1),
    )
    undisturbed = dataclasses.replace(config, output=str(tmp_path / "undisturbed"))
    started = [launch(undisturbed, tmp_path / "one")]
    try:
        assert started[0].ended() == 0, started[0].said()
        started.append(launch(config, tmp_path / "two"))
        comes_to(8, config, started[1:])
        victim = psutil.Process(started[1].process.pid).children()[1]
        victim.send_signal(signal.SIGKILL)
        assert started[1].ended() == 0, started[1].said()
    finally:
        for one in started:
            if one.process.poll() is None:
                for child in psutil.Process(one.process.pid).children():
                    child.kill()
            one.process.kill()
            one.process.wait()
    told = started[1].said()
    assert "[launch] process 1 was killed by SIGKILL" in told and "restart 1 of 1" in told
    assert "going on from step" in told
    assert figures(Path(config.output)) == figures(Path(undisturbed.output))
    assert saved_steps(config) == saved_steps(undisturbed)
    assert_same_bits(state_at(config), state_at(undisturbed))
