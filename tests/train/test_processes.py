"""Two processes of two devices each train as one process of four does."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest

from simjax.eval.tasks import EvalConfig
from simjax.mesh import MeshConfig
from simjax.train import config as run_config
from simjax.train.config import RunConfig, TrainConfig
from tests.train.tiny_run import (
    BLOCK,
    EPOCHS,
    TOTAL,
    environment,
    lines,
    recipe,
    saved_steps,
    state_at,
    train,
)

PROCESS = """
import json, sys

import jax

index, port, recipe = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.distributed.initialize(f"localhost:{port}", 2, index)

from simjax.train import config
from simjax.train.loop import train

print(json.dumps(train(config.load(recipe))))
"""


# Neither runs long: LLVM's optimisation would take longer than it saves.
QUICK = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}


@contextmanager
def pair(config: RunConfig, folder: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that train by one configuration."""
    path = folder / "recipe.yaml"
    path.write_text(run_config.dump(config), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(index), str(port), str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(devices=2) | {"PYTHONPATH": os.getcwd()} | QUICK,
            text=True,
        )
        for index in range(2)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def returned(processes: list[subprocess.Popen[str]]) -> list[dict]:
    told = [process.communicate(timeout=240) for process in processes]
    for process, (_, err) in zip(processes, told, strict=True):
        assert process.returncode == 0, err
    return [json.loads(out.splitlines()[-1]) for out, _ in told]


def losses(config: RunConfig) -> list[float]:
    return [line["loss"] for line in lines(Path(config.output)) if "loss" in line]


@pytest.fixture(scope="module", params=[MeshConfig(4, 1), MeshConfig(2, 2), MeshConfig(1, 4)])
def alone(request, data, tmp_path_factory) -> RunConfig:
    """A run of one process on four devices."""
    plan = TrainConfig(epochs=EPOCHS, micro_batch=BLOCK, log_every=1)
    folder = tmp_path_factory.mktemp("alone")
    config = recipe(data, folder / "run", mesh=request.param, train=plan)
    train(config)
    return config


def test_two_processes_on_four_devices_give_the_losses_of_one_process_on_eight(
    data, whole, tmp_path
):
    config = recipe(data, tmp_path / "run", mesh=MeshConfig(2, 2), evaluation=EvalConfig())
    with pair(config, tmp_path) as processes:
        one, other = returned(processes)
    assert one == other
    np.testing.assert_allclose(losses(config), losses(whole[0]), rtol=1e-5)


@pytest.mark.multiprocess
def test_two_processes_give_the_losses_of_one(alone, tmp_path):
    config = dataclasses.replace(alone, output=str(tmp_path / "run"))
    with pair(config, tmp_path) as processes:
        one, other = returned(processes)
    assert one == other
    np.testing.assert_allclose(losses(config), losses(alone), rtol=1e-5)
    assert saved_steps(config) == saved_steps(alone)
    assert (tmp_path / "run" / "export" / "model.safetensors").exists()


@pytest.mark.multiprocess
@pytest.mark.parametrize("alone", [MeshConfig(2, 2)], indirect=True, scope="module")
def test_a_signal_to_one_of_two_processes_stops_both_at_the_same_step(alone, tmp_path):
    config = dataclasses.replace(alone, output=str(tmp_path / "run"))
    with pair(config, tmp_path) as processes:
        # A first step, which takes both of them.
        while not losses(config):
            assert processes[0].poll() is None and processes[1].poll() is None
            time.sleep(0.01)
        processes[1].send_signal(signal.SIGTERM)
        one, other = returned(processes)
    assert other["stopped"] == "SIGTERM" and "stopped" in one
    assert one["steps"] == other["steps"] == max(saved_steps(config)) < TOTAL

    # Gone on with by one process: on another layout of processes, the same but for rounding.
    train(config)
    np.testing.assert_allclose(losses(config), losses(alone), rtol=1e-5)
    ends = (jax.tree.leaves(state_at(run).params) for run in (config, alone))
    for left, right in zip(*ends, strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-3 * config.optimizer.learning_rate)
