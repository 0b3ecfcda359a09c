"""Which processes are joined, and what is told when they cannot be."""

from __future__ import annotations

import os
import threading
import time

import jax
import pytest

from simjax.errors import SimjaxError, UsageError
from simjax.processes import board, start, watch
from simjax.processes.roll_call import Disagreement
from simjax.processes.start import ProcessConfig, detected
from tests.processes.store import Store

WHO = {"coordinator": "localhost:1234", "num_processes": 2, "process_id": 1}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"process_id": None}, "--process_id missing"),
        ({"process_id": None, "num_processes": None}, "--num_processes, --process_id missing"),
        ({"process_id": 0, "num_processes": 0}, "--num_processes is 0: give at least 1"),
        ({"process_id": 2}, "--process_id is 2: 2 processes are numbered from 0 to 1"),
        ({"process_id": -1}, "--process_id is -1"),
        ({"coordinator": "localhost"}, "'localhost' is not HOST:PORT"),
        ({"coordinator": "localhost:99999"}, "is not HOST:PORT"),
        ({"distributed": "yes"}, "--distributed: give it, or --coordinator"),
        ({"heartbeat_timeout": 0}, "--heartbeat_timeout is 0"),
    ],
)
def test_wrong_options(changes, told):
    with pytest.raises(UsageError, match=told.replace("(", r"\(")):
        ProcessConfig(**WHO | changes)


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, None),
        ({"SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "SLURM_STEP_NUM_TASKS"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU_WORKER_HOSTNAMES"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, "JAX_COORDINATOR_ADDRESS"),
    ],
)
def test_several_processes_are_detected(monkeypatch, variables, found):
    for name in (
        "SLURM_STEP_NUM_TASKS",
        "OMPI_COMM_WORLD_SIZE",
        "TPU_WORKER_HOSTNAMES",
        "JAX_COORDINATOR_ADDRESS",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert detected() == found
    assert start._wanted(ProcessConfig()) is (found is not None)
    assert not start._wanted(ProcessConfig(distributed="no"))
    assert start._wanted(ProcessConfig(distributed="yes"))


def test_one_process_joins_nobody():
    assert not start._wanted(ProcessConfig("localhost:1", 1, 0))
    with start.joined(ProcessConfig(distributed="no")):
        start.leave(1)  # does nothing


@pytest.fixture
def one_of_two(monkeypatch) -> Store:
    """This process is the second of two; the first is what a test makes of it."""
    store = Store(2)
    monkeypatch.setattr(start, "_initialize", lambda config: None)
    monkeypatch.setattr(board, "of_this_run", lambda: store.board(1))
    monkeypatch.setattr(start, "_watch", None)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: store.kept.update(shut="down"))
    monkeypatch.setattr(watch, "_LOOK", 0.02)
    monkeypatch.setattr(watch, "_SUSPICIOUS", 0.5)
    return store


def test_who_is_gone_at_the_end_is_named(one_of_two):
    """Process 0 exports while the others wait for it, and may be killed then."""
    with (
        pytest.raises(SimjaxError, match="process 0 has not been heard of"),
        start.joined(ProcessConfig(**WHO)),
    ):
        one_of_two.answers[1] = False
    assert "shut" not in one_of_two.kept  # it would wait for the others


def test_what_all_have_raised_is_raised_when_all_have_come_to_the_end(one_of_two):
    first = one_of_two.board(0)

    def beat() -> None:
        while "shut" not in one_of_two.kept:
            first.tell("beat", str(time.monotonic()))
            time.sleep(0.02)

    threads = [threading.Thread(target=beat)]
    threads += [threading.Thread(target=lambda: first.meet("end", seconds=30))]
    for thread in threads:
        thread.start()
    with pytest.raises(Disagreement, match="differ"), start.joined(ProcessConfig(**WHO)):
        raise Disagreement("differ")
    for thread in threads:
        thread.join(30)
    assert one_of_two.kept["shut"] == "down" and "simjax/words/1" not in one_of_two.kept
    start.leave(1)  # does nothing any more


class Left(BaseException):
    """Stands for the end of the process."""


def test_processes_of_a_cluster_that_do_not_all_come_are_not_waited_for(monkeypatch, capfd):
    left = threading.Event()

    def leave(status: int) -> None:
        assert status == 1
        left.set()
        raise Left

    def wait(*_: object, **options: float) -> None:
        assert options["initialization_timeout"] > 1  # JAX ends the process without a word
        assert left.wait(30)
        raise Left

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(jax.distributed, "initialize", wait)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    before = jax.config.jax_enable_preemption_service
    try:
        with pytest.raises(Left):
            start._initialize(ProcessConfig(distributed="yes", initialization_timeout=1))
        # JAX's own handler of SIGTERM would swallow one that comes before training has begun.
        assert not jax.config.jax_enable_preemption_service
    finally:
        jax.config.update("jax_enable_preemption_service", before)
    told = capfd.readouterr().err
    assert told.startswith("simjax: a process: not all processes of the run have come within 1 sec")
