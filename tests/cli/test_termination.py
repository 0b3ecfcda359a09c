"""SIGTERM: before a run can save, while a command computes, and where it is not the command's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from simjax.cli.termination import Terminated, terminable
from simjax.train.signals import StopRequest
from tests.processes.started import Started, writer
from tests.train.tiny_run import environment

ROOT = Path(__file__).parents[2]
LINE = "simjax: told to stop by SIGTERM\n"


@pytest.fixture(autouse=True)
def unhandled():
    """Whoever starts the tests may have set a handler."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def test_the_signal_is_raised_once_and_then_everything_is_as_before():
    before = threading.active_count()
    with pytest.raises(Terminated, match="told to stop by SIGTERM"), terminable():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # as `timeout` sends it to the group too
            cleared_up = True
    assert cleared_up
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == before


class Held:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.001)  # here Python calls the handler


def test_a_signal_in_a_finaliser_is_not_lost(capfd):
    with pytest.raises(Terminated), terminable():
        held = [Held()]
        held.clear()
        time.sleep(3)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
def test_who_ignores_or_handles_it_already_goes_on_doing_so(handler):
    signal.signal(signal.SIGTERM, handler)
    with terminable():
        os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is handler


def test_a_run_that_can_save_takes_it_over_and_gives_it_back():
    with pytest.raises(Terminated), terminable():
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.name == "SIGTERM"
        os.kill(os.getpid(), signal.SIGTERM)


def test_outside_of_the_main_thread_it_does_nothing():
    seen = []

    def work() -> None:
        with terminable():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


def test_a_run_that_has_not_begun_ends_in_one_line(tmp_path):
    """It reads its recipe when the signal comes, from a pipe in which there is none yet."""
    pipe = tmp_path / "recipe.yaml"
    os.mkfifo(pipe)
    printed = tmp_path / "printed"
    with printed.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "simjax", "train", str(pipe)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(),
            cwd=ROOT,
        )
    run = Started(process, printed)
    try:
        with writer(pipe, [run]):
            process.send_signal(signal.SIGTERM)
            assert (run.ended(), run.said()) == (143, LINE)
    finally:
        process.kill()
        process.wait()


# The main thread sits in one long call that no Python handler can enter, as in a compilation.
BUSY = """
import hashlib, sys, types
from simjax.cli import termination
from simjax.cli.main import main

def run(args):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)

module = types.ModuleType("simjax.cli.data", "x")
module.add_arguments, module.run = lambda parser: None, run
sys.modules["simjax.cli.data"] = module
termination._PATIENCE = 0.2
sys.exit(main(["data"]))
"""


def test_a_main_thread_that_computes_is_not_waited_for():
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, told) == (143, LINE)
