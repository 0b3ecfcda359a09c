"""Runs that are killed, stopped by signals or derailed, and what is left of them."""

from __future__ import annotations

import dataclasses
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest

from simjax.checkpoint.config import CheckpointConfig
from simjax.cli.main import main
from simjax.mesh import MeshConfig
from simjax.train import config as run_config
from simjax.train.config import RunConfig, TrainConfig
from simjax.train.optimizer_config import AdamW
from tests.train.tiny_run import (
    TOTAL,
    assert_same_bits,
    figures,
    lines,
    recipe,
    saved_steps,
    start,
    state_at,
    train,
)


@contextmanager
def started(config: RunConfig, folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(config, folder)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(found: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(60_000):
        if found():
            return
        if process.poll() is not None:
            raise AssertionError(f"the run has ended: {process.communicate()}")
        time.sleep(0.002)
    raise AssertionError("it never came to that")


def has_come_to(step: int, config: RunConfig) -> Callable[[], bool]:
    return lambda: any(line["step"] >= step for line in lines(Path(config.output)))


def test_a_run_killed_while_it_saves_is_gone_on_with_bit_for_bit(data, whole, tmp_path):
    config = recipe(data, tmp_path / "run", checkpoint=CheckpointConfig(every=1, keep=3))
    folder = tmp_path / "run" / "checkpoints"
    with started(config, tmp_path) as process:
        wait_until(has_come_to(5, config), process)
        # Orbax writes a step under a temporary name.
        wait_until(lambda: any(not p.name.isdecimal() for p in folder.glob("[0-9]*")), process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "run" / "export").exists()
    there = saved_steps(config)
    assert there and max(there) < TOTAL

    returned = train(config)
    assert returned["steps"] == TOTAL
    assert_same_bits(state_at(config), state_at(whole[0]))
    assert figures(tmp_path / "run") == figures(Path(whole[0].output))
    assert all(p.name.isdecimal() or p.name == "run.json" for p in folder.iterdir())


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_saves_and_ends_cleanly(data, whole, tmp_path, number):
    config = recipe(data, tmp_path / "run")
    with started(config, tmp_path) as process:
        wait_until(has_come_to(2, config), process)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0
    step = max(saved_steps(config))
    assert step < TOTAL
    assert f"{number.name}: saved at step {step} of {TOTAL}" in err and not out
    assert lines(tmp_path / "run")[-1]["step"] == step

    train(config)
    assert_same_bits(state_at(config), state_at(whole[0]))
    assert figures(tmp_path / "run") == figures(Path(whole[0].output))


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_the_run_at_once(data, tmp_path, number):
    # Learning another objective takes a compilation of seconds, which no handler can enter.
    temperature = 0.05 + number / 1000
    config = recipe(data, tmp_path / "run")
    config = dataclasses.replace(
        config, objective=dataclasses.replace(config.objective, temperature=temperature)
    )
    with started(config, tmp_path) as process:
        wait_until(has_come_to(0, config), process)
        process.send_signal(number)
        time.sleep(0.1)
        process.send_signal(signal.SIGSTOP)  # or it might be done before the second one
        time.sleep(1.2)  # signals within a second are one
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        assert process.wait(timeout=60) == 128 + number
    assert saved_steps(config) == set()


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_the_last_good_checkpoint(
    data, tmp_path, capfd
):
    config = recipe(
        data,
        tmp_path / "run",
        checkpoint=CheckpointConfig(every=1, keep=2),
        optimizer=AdamW(learning_rate=1e30, warmup=TOTAL, schedule="constant"),
        train=TrainConfig(epochs=4, log_every=1),
        mesh=MeshConfig(1, 1),
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(run_config.dump(config), encoding="utf-8")
    assert main(["train", str(path)]) == 1
    message = capfd.readouterr().err.splitlines()[-1]
    # The first update has rate 0. The second one makes parameters of 1e29.
    assert re.match(r"simjax: step 3: the loss is nan; ", message)
    assert f"step 1 is kept in {tmp_path / 'run' / 'checkpoints'};" in message
    assert "optimizer.learning_rate" in message
    assert not (tmp_path / "run" / "export").exists()
    assert [line["step"] for line in lines(tmp_path / "run") if "loss" in line] == [1, 2]

    good = state_at(config, 1)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(good))
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(good.params)) < 10

    # The same again: the same end, and the checkpoint is still there.
    assert main(["train", str(path)]) == 1
    assert capfd.readouterr().err.splitlines()[-1] == message
    assert_same_bits(state_at(config, 1), good)
