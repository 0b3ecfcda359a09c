"""Runs of several processes, and of changing numbers of them, train as one process does."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from simjax.eval.tasks import EvalConfig
from simjax.mesh import MeshConfig
from simjax.train.config import RunConfig, TrainConfig
from tests.processes.started import Started, comes_to, started, wait_for
from tests.train import systems
from tests.train.slow_export import EXPORTING, SECONDS
from tests.train.tiny_run import (
    BLOCK,
    EPOCHS,
    config_for,
    lines,
    recipe,
    saved_steps,
    state_at,
    train,
)


def losses(config: RunConfig) -> list[float]:
    return [line["loss"] for line in lines(Path(config.output)) if "loss" in line]


def all_done(processes: list[Started]) -> None:
    assert [one.ended() for one in processes] == [0] * len(processes), processes[0].said()


def assert_same_end(config: RunConfig, other: RunConfig) -> None:
    """Same losses, and same parameters, but for rounding.

    Scores are up to 20 and rounded by 1e-6, which a loss has in full however small it is.
    """
    np.testing.assert_allclose(losses(config), losses(other), rtol=1e-5, atol=3e-6)
    ends = (jax.tree.leaves(state_at(run).params) for run in (config, other))
    for left, right in zip(*ends, strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-3 * config.optimizer.learning_rate)


@pytest.fixture(scope="module", params=[MeshConfig(4, 1), MeshConfig(2, 2), MeshConfig(1, 4)])
def alone(request, data, tmp_path_factory) -> RunConfig:
    """A run of one process on four devices."""
    plan = TrainConfig(epochs=EPOCHS, micro_batch=BLOCK, log_every=1)
    folder = tmp_path_factory.mktemp("alone")
    config = recipe(data, folder / "run", mesh=request.param, train=plan)
    train(config)
    return config


# Runs `simjax` by its arguments, and tells of every file of the run that Python opens to write.
WATCHED = """
import os, runpy, sys

output = sys.argv[1]

def told(event, arguments):
    if event == "open" and str(arguments[0]).startswith(output) and arguments[2] & 3:
        print("opened to write:", arguments[0], flush=True)
    elif event in ("os.rename", "os.remove") and str(arguments[0]).startswith(output):
        print("changed:", arguments[0], flush=True)

sys.addaudithook(told)
del sys.argv[:4]
runpy.run_module("simjax", run_name="__main__", alter_sys=True)
"""


def test_two_processes_on_four_devices_give_the_losses_of_one_process_on_eight(
    data, whole, tmp_path
):
    config = recipe(data, tmp_path / "run", mesh=MeshConfig(2, 2), evaluation=EvalConfig())
    watched = [sys.executable, "-c", WATCHED, config.output]
    with started(config, tmp_path, before=lambda index: watched) as processes:
        all_done(processes)
    # Process 0 alone writes, but for its own part of each checkpoint.
    assert f"opened to write: {config.output}/metrics.jsonl" in processes[0].said()
    elsewhere = processes[1].said().replace(f"{config.output}/checkpoints/", "")
    assert config.output not in elsewhere
    np.testing.assert_allclose(losses(config), losses(whole[0]), rtol=1e-5)
    # Process 0 alone has something to say; what libraries print is not ours.
    assert "the model of step" in processes[0].said() and "step" not in processes[1].said()


@pytest.mark.multiprocess
def test_two_processes_give_the_losses_of_one(alone, tmp_path):
    config = dataclasses.replace(alone, output=str(tmp_path / "run"))
    told = tmp_path / "told.json"
    with started(config, tmp_path, 2, f"--json={told}") as processes:
        all_done(processes)
    assert json.loads(told.read_text())["steps"] == max(saved_steps(alone))
    assert_same_end(config, alone)
    assert saved_steps(config) == saved_steps(alone)
    assert (tmp_path / "run" / "export" / "model.safetensors").exists()


@pytest.mark.multiprocess
@pytest.mark.parametrize("name", ["similarity", "paraphrases", "reconstruction"])
def test_two_processes_train_a_system_as_one_does(name, data, whole, tmp_path):
    """With a teacher's vectors; with a decoder beside the encoder; with latents under it."""
    systems.write_scored(data)
    teacher = str(Path(whole[0].output) / "export")
    alone = systems.config_of(name, data, tmp_path / "alone", teacher)
    train(alone)
    config = dataclasses.replace(alone, output=str(tmp_path / "run"))
    with started(config, tmp_path, 2, devices=1) as processes:
        all_done(processes)
    assert_same_end(config, alone)


@pytest.mark.multiprocess
def test_a_run_goes_on_with_other_numbers_of_processes_and_devices(data, tmp_path):
    """Four processes, then two of them, then one; each but the last is stopped by one signal."""
    plan = TrainConfig(epochs=12, micro_batch=BLOCK, log_every=1)
    alone = config_for(data, tmp_path / "alone", mesh=MeshConfig(4, 2), train=plan)
    train(alone)
    total = max(saved_steps(alone))
    config = dataclasses.replace(alone, output=str(tmp_path / "run"))
    step = 0
    for number, (count, devices, mesh) in enumerate(
        [(4, 2, MeshConfig(4, 2)), (2, 1, MeshConfig(2, 1))]
    ):
        leg = dataclasses.replace(config, mesh=mesh)
        with started(leg, tmp_path / f"leg-{number}", count, devices=devices) as processes:
            comes_to(step + 2, leg, processes)
            processes[-1].process.send_signal(signal.SIGTERM)
            all_done(processes)
        if step:
            assert f"going on from step {step} of {total}" in processes[0].said()
        step = max(saved_steps(config))
        # By process 0, which was not given the signal.
        assert f"SIGTERM: saved at step {step} of {total}" in processes[0].said()
        assert 0 < step < total
    train(config)
    assert_same_end(config, alone)


@pytest.mark.multiprocess
def test_a_late_signal_to_one_process_does_not_end_what_another_writes(data, tmp_path):
    plan = TrainConfig(steps=2, micro_batch=BLOCK, log_every=1)
    config = recipe(data, tmp_path / "run", mesh=MeshConfig(2, 1), train=plan)
    slow = "tests.train.slow_export"
    with started(config, tmp_path, devices=1, module=slow) as processes:
        wait_for(lambda: (tmp_path / "run" / EXPORTING).exists(), processes)
        time.sleep(SECONDS / 2)  # in which the other comes to its own end
        processes[1].process.send_signal(signal.SIGTERM)
        all_done(processes)
    assert (tmp_path / "run" / "export" / "model.safetensors").exists()


@pytest.mark.multiprocess
def test_a_signal_can_have_an_exit_status_of_its_own(data, tmp_path):
    """A scheduler that takes 0 for the end of the job must be told that it is not."""
    plan = TrainConfig(epochs=400, micro_batch=BLOCK, log_every=1)
    config = recipe(data, tmp_path / "run", mesh=MeshConfig(2, 1), train=plan)
    with started(config, tmp_path, 2, "--stopped_status=75", devices=1) as processes:
        comes_to(1, config, processes)
        processes[0].process.send_signal(signal.SIGTERM)
        assert [one.ended() for one in processes] == [75, 75]
    assert "SIGTERM: saved at step" in processes[0].said()
