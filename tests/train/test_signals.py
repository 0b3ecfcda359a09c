from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest

from simjax.train.signals import StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_a_wish(number):
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with StopRequest() as stop:
        assert not stop.requested and stop.name is None
        os.kill(os.getpid(), number)
        assert stop.requested and stop.name == number.name
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert stop.requested  # the wish outlives the block


def test_a_handler_that_raises_before_the_block_leaves_nothing_behind(monkeypatch):
    """As that of a command does, at a signal that comes while the request is entered."""
    before, threads = signal.getsignal(signal.SIGTERM), threading.active_count()
    handle = signal.signal

    def interrupted(number, handler):
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        return handle(number, handler)

    with monkeypatch.context() as patch:
        patch.setattr(signal, "signal", interrupted)
        with pytest.raises(KeyboardInterrupt), StopRequest():
            pass
    assert signal.getsignal(signal.SIGTERM) == before
    assert signal.set_wakeup_fd(-1) == -1 and threading.active_count() == threads


def test_other_signals_are_no_wish():
    heard = []
    old = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    try:
        with StopRequest() as stop:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.05)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert heard


def test_outside_of_the_main_thread_it_does_nothing():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with StopRequest() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGTERM) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, True)]


# The main thread sits in one long call that no Python handler can enter, as in a compilation.
BUSY = """
import hashlib, time
from simjax.train.signals import StopRequest

with StopRequest() as stop:
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.001)
    print(stop.name, flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)
"""


@pytest.mark.parametrize(
    ("first", "second"), [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)]
)
def test_the_second_signal_ends_a_real_process(first, second):
    terminal, end = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=end, text=True
    )
    os.close(end)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(first)
        assert child.stdout.readline() == f"{first.name}\n"
        child.send_signal(first)  # as `timeout` does: the process, then its group
        time.sleep(1.2)  # let it enter the call
        assert child.poll() is None
        child.send_signal(second)
        assert child.wait(timeout=20) == 128 + second
        assert b"\x1b[?25h" in os.read(terminal, 1000)  # the cursor is back
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()
        os.close(terminal)
