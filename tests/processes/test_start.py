"""Which processes are joined, and what is told when they cannot be."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from simjax.cli.main import main
from simjax.errors import SimjaxError, UsageError
from simjax.processes import start
from simjax.processes.start import ProcessConfig, detected

WHO = {"coordinator": "localhost:1234", "num_processes": 2, "process_id": 1}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"process_id": None}, "--process_id missing"),
        ({"process_id": None, "num_processes": None}, "--num_processes, --process_id missing"),
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


def test_a_port_in_use_is_told(tmp_path: Path, capfd):
    (tmp_path / "x.yaml").write_text("output: y\n")
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status = main(
            [
                *("train", str(tmp_path / "x.yaml"), f"--coordinator=localhost:{port}"),
                *("--num_processes=2", "--process_id=0"),
            ]
        )
    assert status == 1
    told = capfd.readouterr().err
    assert told.count("\n") == 1 and f"port {port} is in use on this machine" in told


@pytest.mark.parametrize("host", ["localhost", "no-such-host.invalid"])
def test_a_coordinator_that_is_not_up_is_waited_for_and_told(host):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    told = f"process 3: no coordinator at {host}:{port} for 1 seconds"
    with pytest.raises(SimjaxError, match=told):
        start._wait_for(f"{host}:{port}", 3, 1)


def test_a_coordinator_that_comes_up_late_is_found():
    with socket.socket() as late:
        late.bind(("localhost", 0))
        address = f"localhost:{late.getsockname()[1]}"
        timer = threading.Timer(0.3, late.listen)
        timer.start()
        start._wait_for(address, 1, 30)
        timer.join()
