"""`launch/local.py` with a stand-in for simjax, which starts in no time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).parents[2] / "launch" / "local.py"

_OF_THE_MACHINE = ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS")
STAND_IN = """
import os, signal, sys, time
from pathlib import Path

here = Path({here!r})
index = next(int(a.split("=")[1]) for a in sys.argv if a.startswith("--process_id="))
attempt = len(list(here.glob(f"start-{{index}}-*")))
(here / f"start-{{index}}-{{attempt}}").write_text(" ".join(sys.argv[1:]))
print("hello", os.environ.get("JAX_NUM_CPU_DEVICES"), os.environ.get("CUDA_VISIBLE_DEVICES"))
def saved(number, frame):
    print("saved")
    sys.exit(0)
def wait():
    while True:
        time.sleep(0.02)
{body}
"""


@pytest.fixture
def launch(tmp_path):
    """Starts the launcher over processes that run `body`."""
    found: list[subprocess.Popen[str]] = []

    def start(body: str, *options: str, **variables: str) -> subprocess.Popen[str]:
        package = tmp_path / "path" / "simjax"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(STAND_IN.format(here=str(tmp_path), body=body))
        found.append(
            subprocess.Popen(
                [sys.executable, str(LAUNCHER), *options, "train", "recipe.yaml", "--seed", "3"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path,  # `python -m` looks there first
                env={k: v for k, v in os.environ.items() if k not in _OF_THE_MACHINE}
                | {"PYTHONPATH": str(package.parent)}
                | variables,
            )
        )
        return found[-1]

    yield start
    for process in found:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def starts(folder: Path) -> list[str]:
    return sorted(path.name.removeprefix("start-") for path in folder.glob("start-*"))


def test_all_are_started_alike_and_marked(launch, tmp_path):
    process = launch("print('no end', end='')", "--processes", "3", "--cpu_devices", "4")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    lines = sorted(out.splitlines())
    assert lines == sorted(
        line for i in range(3) for line in (f"[{i}] hello 4 None", f"[{i}] no end")
    )
    commands = [(tmp_path / f"start-{i}-0").read_text().split() for i in range(3)]
    assert {tuple(command[:-1]) for command in commands} == {tuple(commands[0][:-1])}
    assert commands[2][:4] == ["train", "recipe.yaml", "--seed", "3"]
    assert commands[2][4].startswith("--coordinator=localhost:")
    assert commands[2][5:] == ["--num_processes=3", "--process_id=2"]


def test_one_gpu_each(launch):
    out, _ = launch("", "--gpus").communicate(timeout=60)
    assert sorted(out.splitlines()) == ["[0] hello None 0", "[1] hello None 1"]


@pytest.mark.parametrize(
    ("options", "given", "told"),
    [
        (["--gpus"], {}, "cuda"),
        (["--gpus"], {"JAX_PLATFORMS": ""}, "cuda"),
        (["--gpus"], {"JAX_PLATFORMS": "rocm"}, "rocm"),
        ([], {}, "None"),
        (["--cpu_devices", "2"], {"JAX_PLATFORMS": "cuda"}, "cpu"),
    ],
)
def test_processes_with_gpus_never_compute_on_the_cpu_instead(launch, options, given, told):
    process = launch("print(os.environ.get('JAX_PLATFORMS'))", *options, **given)
    lines = process.communicate(timeout=60)[0].splitlines()
    assert sorted(line for line in lines if "hello" not in line) == [f"[0] {told}", f"[1] {told}"]


@pytest.mark.parametrize(
    ("options", "visible", "told"),
    [
        (
            ["--gpus", "--processes", "3"],
            "4,7",
            "--processes is 3 and CUDA_VISIBLE_DEVICES is '4,7'",
        ),
        (["--gpus"], "", "--processes is 2 and CUDA_VISIBLE_DEVICES is ''"),
        (["--max_restarts", "-1"], "", "--max_restarts is -1: give at least 0"),
        (["--processes", "0"], "", "--processes is 0: give at least 1"),
        (["--cpu_devices", "0"], "", "--cpu_devices is 0: give at least 1"),
    ],
)
def test_wrong_options(options, visible, told):
    done = subprocess.run(
        [sys.executable, str(LAUNCHER), *options, "train", "x.yaml"],
        capture_output=True,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": visible},
    )
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr


def test_gpus_are_those_that_are_visible(launch):
    process = launch("", "--gpus", CUDA_VISIBLE_DEVICES="4,7,9")
    assert sorted(process.communicate(timeout=60)[0].splitlines()) == [
        "[0] hello None 4",
        "[1] hello None 7",
    ]


DIES = "signal.signal(signal.SIGTERM, saved)\nos.kill(os.getpid(), 9) if index == 1 else wait()"


def test_when_one_is_killed_the_others_are_ended_and_the_status_says_so(launch):
    process = launch(DIES, "--grace", "0.2")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    assert "[launch] process 1 was killed by SIGKILL; waiting for the others: 0" in err
    assert "[launch] still there after 0.2 seconds, killed: [0]" in err
    assert "saved" not in out


# A process is gone for others once the launcher has taken note of its end.
GONE = """
other = here / "other"
if index == 1:
    other.write_text(str(os.getpid()))
    sys.exit(5)
while not (other.exists() and other.read_text()):
    time.sleep(0.02)
while Path(f"/proc/{other.read_text()}").exists():
    time.sleep(0.02)
sys.exit("process 1 is gone")
"""


def test_the_others_may_say_why_they_end(launch):
    process = launch(GONE, "--grace", "50")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 5
    assert "[0] process 1 is gone" in err and "has failed with status 5" in err


@pytest.mark.parametrize(
    ("fails", "restarts", "status", "attempts"),
    [(2, 3, 0, 3), (2, 1, 7, 2), (2, 0, 7, 1)],
)
def test_restarts(launch, tmp_path, fails, restarts, status, attempts):
    body = f"sys.exit(7 if index == 1 and attempt < {fails} else 0)"
    process = launch(body, "--max-restarts", str(restarts))
    process.communicate(timeout=60)
    assert process.returncode == status
    assert starts(tmp_path) == [f"{i}-{n}" for i in range(2) for n in range(attempts)]


def test_a_wrong_call_is_not_tried_again(launch, tmp_path):
    process = launch("sys.exit(2)", "--max_restarts", "5")
    process.communicate(timeout=60)
    assert process.returncode == 2
    assert starts(tmp_path) == ["0-0", "1-0"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on_and_nothing_is_started_again(launch, tmp_path, number):
    body = f"signal.signal({int(number)}, saved)\nprint('ready')\nwait()"
    process = launch(body, "--max_restarts", "5")
    assert process.stdout is not None
    ready = 0
    while ready < 2:
        ready += "ready" in process.stdout.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert sorted(out.splitlines()) == ["[0] saved", "[1] saved"]
    assert starts(tmp_path) == ["0-0", "1-0"]


def test_a_terminal_that_closes_stops_the_processes(launch, tmp_path):
    """They have sessions of their own, and what they say has nowhere to go."""
    body = "signal.signal(15, lambda *_: [print('x' * 99999), saved(0, 0)])\nprint('ready')\nwait()"
    body = body.replace("print('ready')", "(here / f'pid-{index}').write_text(str(os.getpid()))")
    # Under nohup the signal is ignored, by what is started too.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        process = launch(body, "--max_restarts", "5")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert process.stdout is not None and process.stderr is not None
    while len(list(tmp_path.glob("pid-*"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 0
    assert starts(tmp_path) == ["0-0", "1-0"]


def test_a_run_that_fails_after_a_signal_is_not_started_again(launch, tmp_path):
    body = "signal.signal(15, lambda *_: sys.exit(3))\nprint('ready')\nwait()"
    process = launch(body, "--max_restarts", "5", "--processes", "1")
    assert process.stdout is not None
    while "ready" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 3
    assert starts(tmp_path) == ["0-0"]


def test_a_call_without_a_command():
    done = subprocess.run(
        [sys.executable, str(LAUNCHER), "--processes", "2"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "what shall be run?" in done.stderr
