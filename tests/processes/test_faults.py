"""Processes that are killed, stopped, cut off or unlike each other: all end, and say by whom."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from simjax.checkpoint.config import CheckpointConfig
from simjax.eval.tasks import EvalConfig
from simjax.mesh import MeshConfig
from simjax.train.config import RunConfig, TrainConfig
from tests.processes.started import comes_to, free_port, started, writer
from tests.train.tiny_run import BLOCK, lines, recipe

pytestmark = [pytest.mark.multiprocess, pytest.mark.faults]
SOON = "--heartbeat_timeout=15"


@pytest.fixture
def long(data, tmp_path) -> RunConfig:
    """A run that does not end by itself while a test lasts."""
    return recipe(
        data,
        tmp_path / "run",
        evaluation=EvalConfig(),
        train=TrainConfig(epochs=4000, micro_batch=BLOCK, log_every=1),
        checkpoint=CheckpointConfig(every=1000, keep=2),
        mesh=MeshConfig(2, 1),
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_gone_is_named_by_the_other(long, tmp_path, number):
    with started(long, tmp_path / "both", 2, SOON, devices=1) as (one, other):
        comes_to(2, long, [one, other])
        other.process.send_signal(number)
        assert one.ended() == 1
        pid = other.process.pid
    assert f"simjax: process 1 ({os.uname().nodename}, pid {pid}) has not been" in one.said()
    assert "goes on from the last checkpoint" in one.said()


def test_a_coordinator_that_stands_still_is_named(long, tmp_path):
    with started(long, tmp_path / "both", 2, SOON, devices=1) as (one, other):
        comes_to(2, long, [one, other])
        one.process.send_signal(signal.SIGSTOP)
        assert other.ended() == 1
    assert "simjax: process 0 (" in other.said() and "has not been heard of" in other.said()


def test_a_coordinator_that_is_killed_ends_the_others(long, tmp_path):
    with started(long, tmp_path / "both", 2, SOON, devices=1) as (one, other):
        comes_to(2, long, [one, other])
        one.process.kill()
        # JAX ends the process itself, unless the failed computation is noticed first.
        assert other.ended() in (1, -signal.SIGABRT)
    assert "process 0 (" in other.said() or "leader task" in other.said()


def test_a_recipe_that_one_process_cannot_read_ends_the_other(long, tmp_path):
    wrong = "--train.micro_batch=no"
    with started(
        long, tmp_path / "both", devices=1, of=lambda index: [wrong] if index == 0 else []
    ) as (one, other):
        assert [one.ended(), other.ended()] == [2, 1]
    assert "process 0 (" in other.said() and "has failed: --train.micro_batch" in other.said()


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_is_told_to_stop_before_it_has_begun_is_named_by_the_other(
    long, tmp_path, index
):
    """Process 1 reads its recipe from a pipe in which there is none; process 0 waits for it."""
    folder = tmp_path / "both"
    folder.mkdir()
    pipe = folder / "held.yaml"
    os.mkfifo(pipe)
    held = ["bash", "-c", 'exec "${@/recipe.yaml/held.yaml}"', "bash"]
    with started(long, folder, devices=1, before=lambda index: held if index == 1 else []) as them:
        with writer(pipe, them):  # who has come so far has joined the other
            them[index].process.send_signal(signal.SIGTERM)
            assert them[index].ended() == 143
            assert them[1 - index].ended() == 1
        pid = them[index].process.pid
    assert them[index].said().endswith("simjax: told to stop by SIGTERM\n")
    assert "Traceback" not in them[index].said()
    named = f"simjax: process {index} ({os.uname().nodename}, pid {pid}) has failed: told to stop"
    assert named in them[1 - index].said()


@pytest.mark.parametrize("count", [2, 3])
def test_processes_that_differ_all_name_the_odd_one(long, tmp_path, count):
    odd = "--objective.temperature=0.07"
    devices = [1] * (count - 1) + [2 if count == 2 else 1]
    with started(
        long,
        tmp_path / "both",
        count,
        devices=devices,
        of=lambda index: [odd] if index == 1 and count == 3 else [],
    ) as them:
        assert [one.ended() for one in them] == [1] * count
    what = "objective.temperature 0.07 (others: 0.05)"
    if count == 2:
        what = 'local devices "2 cpu" (others: "1 cpu")'
    for one in them:
        assert f"process 1 ({os.uname().nodename}, pid {them[1].process.pid}) has {what}" in (
            one.said()
        )


def test_a_second_run_in_the_same_folder_is_refused_on_all_its_processes(long, tmp_path):
    with started(long, tmp_path / "first", 2, devices=1) as first:
        comes_to(1, long, first)
        with started(long, tmp_path / "second", 2, devices=1) as (one, other):
            assert [one.ended(), other.ended()] == [1, 1]
        assert "another process is training in this folder" in one.said()
        assert "process 0 (" in other.said() and "is training in this folder" in other.said()
        assert [run.process.poll() for run in first] == [None, None]


def test_the_same_command_once_more_leaves_the_run_alone(long, tmp_path):
    """A process that JAX's coordinator does not expect would end the run that has it."""
    port = free_port()
    with started(long, tmp_path / "first", 2, devices=1, port=port) as first:
        comes_to(1, long, first)
        with started(
            long, tmp_path / "again", 2, "--initialization_timeout=5", devices=1, port=port
        ) as (one, other):
            assert [one.ended(), other.ended()] == [1, 1]
        assert f"port {port} is in use on this machine" in one.said()
        assert "process 1: " in other.said() and "something else listens there" in other.said()
        steps = max(line["step"] for line in lines(Path(long.output)))
        comes_to(steps + 3, long, first)


@pytest.mark.parametrize(
    ("file", "told"),
    [("triples.csv", "token_store"), ("sts-dev.tsv", "evaluation.sts-dev")],
)
def test_data_that_differ_are_told_before_they_make_processes_wait_for_ever(
    data, tmp_path, file, told
):
    """One recipe, whose folder of data is another one on each host."""
    for index in range(2):
        (tmp_path / str(index) / "data").mkdir(parents=True)
        for path in (data / "triples.csv", data / "sts-dev.tsv"):
            text = path.read_text()
            if index == 1 and path.name == file:
                text = "".join(text.splitlines(True)[:-1])
            (tmp_path / str(index) / "data" / path.name).write_text(text)
    config = recipe(data, tmp_path / "run", mesh=MeshConfig(2, 1))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, root="data"))
    with started(
        config,
        tmp_path / "both",
        devices=1,
        before=lambda index: ["env", "-C", str(tmp_path / str(index))],
    ) as them:
        assert [one.ended() for one in them] == [1, 1]
    for one in them:
        said = one.said()
        assert f"process 1 ({os.uname().nodename}, pid {them[1].process.pid}) has " in said
        assert f"{told} " in said


# Each process in a network of its own, joined by a cable that can be pulled.
NETWORK = """
set -e
ip link set lo up
for i in 0 1; do
  unshare -nu sleep 600 & echo $! > "$1/net-$i"
done
sleep 0.5
first=$(cat "$1/net-0") second=$(cat "$1/net-1")
ip link add end0 type veth peer name end1
ip link set end0 netns "$first"
ip link set end1 netns "$second"
for i in 0 1; do
  # Gloo listens at the address that its host's name has.
  nsenter -n -u -t "$(cat "$1/net-$i")" sh -c "
    hostname 10.9.0.$((i + 1)); ip link set lo up
    ip addr add 10.9.0.$((i + 1))/24 dev end$i; ip link set end$i up"
done
touch "$1/ready"
while [ ! -e "$1/pull" ]; do sleep 0.05; done
nsenter -n -t "$second" ip link set end1 down
touch "$1/pulled"
wait
"""


@pytest.fixture
def network(tmp_path):
    """Two network namespaces; skipped where the host does not allow them."""
    tools = ("unshare", "nsenter", "ip")
    if not all(map(shutil.which, tools)) or subprocess.run(["unshare", "-rnu", "true"]).returncode:
        pytest.skip("this host allows no network namespaces")
    folder = tmp_path / "network"
    folder.mkdir()
    process = subprocess.Popen(["unshare", "-rn", "bash", "-c", NETWORK, "bash", str(folder)])
    try:
        yield folder, process
    finally:
        for name in ("net-0", "net-1"):
            os.kill(int((folder / name).read_text()), signal.SIGKILL)
        process.kill()
        process.wait()


def test_a_process_that_loses_its_network(long, tmp_path, network):
    folder, process = network
    while not (folder / "ready").exists():
        assert process.poll() is None

    def inside(index: int) -> list[str]:
        pid = (folder / f"net-{index}").read_text().strip()
        return ["nsenter", "--preserve-credentials", "-U", "-n", "-u", "-t", pid]

    with started(
        long, tmp_path / "both", 2, SOON, devices=1, before=inside, address="10.9.0.1"
    ) as (one, other):
        comes_to(2, long, [one, other])
        (folder / "pull").touch()
        assert [one.ended(), other.ended()] == [1, 1]
    assert "simjax: process 1 (" in one.said() and "has not been heard of" in one.said()
    assert "simjax: process 0 (" in other.said() and "has not been heard of" in other.said()
