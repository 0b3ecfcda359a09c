#!/usr/bin/env python3
"""Several processes of simjax on this machine, as one run.

    launch/local.py --processes 2 --cpu_devices 4 train configs/quickstart.yaml
    launch/local.py --processes 8 --gpus --max_restarts 3 train configs/nli_small.yaml \
        --data.root DATA --output runs/nli

What follows the options is a command line of `simjax`, mostly of `train`, for the Python that this
is called with; each process gets --coordinator, --num_processes and --process_id as well. Lines of
output are marked with their process. When a process dies the others are given --grace seconds to
say why they end, and are then killed; with --max_restarts all are started again, and go on from the
last checkpoint. A wrong call (status 2) is not tried again. SIGTERM and SIGINT are passed on: the
first saves and stops, the second stops at once. A terminal that closes is a SIGTERM.

Exit status: 0 done, or stopped with everything saved; that of the first process to fail, which is
128 + the signal's number for one that was killed.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

_PAUSE = 0.1
"""Seconds between two looks at the processes."""
_CALLED_WRONGLY = 2


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, and in `command` what is left of the command line."""
    about, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="how many (2)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--cpu_devices", type=int, metavar="N", help="CPU devices of each process")
    where.add_argument("--gpus", action="store_true", help="one GPU for each process, in order")
    parser.add_argument(
        "--max_restarts",
        "--max-restarts",
        type=int,
        default=0,
        metavar="N",
        help="how often all are started again after one has failed (0)",
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds between the failure of one process and the end of the others (30)",
    )
    parser.add_argument("--port", type=int, metavar="N", help="of process 0; default: a free one")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="of simjax, such as train CONFIG")
    args = parser.parse_args(argv)
    if not args.command:
        parser.error("what shall be run? such as: train configs/quickstart.yaml")
    for key, least in (("processes", 1), ("max_restarts", 0), ("grace", 0), ("cpu_devices", 1)):
        value = getattr(args, key)
        if value is not None and value < least:
            parser.error(f"--{key} is {value}: give at least {least}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if args.gpus and visible is not None and len(visible.split(",")) < args.processes:
        parser.error(f"--processes is {args.processes} and CUDA_VISIBLE_DEVICES is {visible!r}")
    return args


class Processes:
    """One attempt at the run."""

    def __init__(self, args: argparse.Namespace) -> None:
        port = args.port or _free_port()
        self._alive: dict[int, subprocess.Popen[str]] = {}
        self._readers: list[threading.Thread] = []
        self._failed: tuple[int, int] | None = None
        for index in range(args.processes):
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "simjax", *args.command),
                    f"--coordinator=localhost:{port}",
                    f"--num_processes={args.processes}",
                    f"--process_id={index}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=os.environ | _devices(args, index) | {"PYTHONUNBUFFERED": "1"},
                # A terminal sends SIGINT to its whole group, and a second one stops at once.
                start_new_session=True,
            )
            self._alive[index] = process
            for source, sink in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
                assert source is not None
                reader = threading.Thread(target=_mark, args=(index, source, sink), daemon=True)
                reader.start()
                self._readers.append(reader)

    def send(self, number: int) -> None:
        """Passes a signal on to those that are alive."""
        for process in list(self._alive.values()):
            process.send_signal(number)

    def wait(self, grace: float) -> int:
        """Waits for the end of all of them; returns the status of the first to fail, or 0."""
        deadline = float("inf")
        while self._alive:
            for index, process in list(self._alive.items()):
                status = process.poll()
                if status is None:
                    continue
                del self._alive[index]
                if status != 0 and self._failed is None:
                    self._failed = index, status
                    deadline = time.monotonic() + grace
                    others = ", ".join(map(str, self._alive)) or "none is left"
                    say(f"process {index} {ended(status)}; waiting for the others: {others}")
            if time.monotonic() > deadline:
                deadline = float("inf")
                say(f"still there after {grace:g} seconds, killed: {[*self._alive]}")
                self.send(signal.SIGKILL)
            time.sleep(_PAUSE)
        for reader in self._readers:
            reader.join(timeout=5)
        if self._failed is None:
            return 0
        status = self._failed[1]
        return status if status > 0 else 128 - status


def run(args: argparse.Namespace) -> int:
    """Starts all processes, again if asked for; returns the exit status."""
    stopped: list[int] = []
    attempt: list[Processes] = []

    def pass_on(number: int, frame: object) -> None:
        stopped.append(number)
        for processes in attempt:
            processes.send(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    # Unless it was started by nohup: the processes have sessions of their own, and would go on.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda _, frame: pass_on(signal.SIGTERM, frame))
    for restarts in range(args.max_restarts + 1):
        attempt[:] = [Processes(args)]
        if stopped:  # between two attempts, or while this one was being made
            attempt[0].send(stopped[0])
        status = attempt[0].wait(args.grace)
        if status in (0, _CALLED_WRONGLY) or stopped or restarts == args.max_restarts:
            break
        say(f"restart {restarts + 1} of {args.max_restarts}")
    return status


def ended(status: int) -> str:
    """How a process has ended, in words."""
    if status >= 0:
        return f"has failed with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def say(line: str) -> None:
    """Prints a line of the launcher's own."""
    with suppress(OSError):  # the terminal may be gone
        print(f"[launch] {line}", file=sys.stderr, flush=True)


def _devices(args: argparse.Namespace, index: int) -> dict[str, str]:
    if args.gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        mine = str(index) if visible is None else visible.split(",")[index]
        # JAX would go on without a word on the CPU where CUDA does not work, all processes alike.
        platforms = os.environ.get("JAX_PLATFORMS") or "cuda"
        return {"CUDA_VISIBLE_DEVICES": mine, "JAX_PLATFORMS": platforms}
    if args.cpu_devices is None:
        return {}
    return {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(args.cpu_devices)}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
    return port


def _mark(index: int, source: IO[str], sink: IO[str]) -> None:
    for line in source:
        # Read on where nobody listens any more: a process that cannot write cannot save.
        with suppress(OSError):
            sink.write(f"[{index}] {line}" if line.endswith("\n") else f"[{index}] {line}\n")
            sink.flush()


if __name__ == "__main__":
    sys.exit(run(parse()))
