"""Processes of `simjax train` that compute together, as a cluster would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from simjax.train import config as run_config
from simjax.train.config import RunConfig
from tests.train.tiny_run import environment, lines

# None of them runs long: LLVM's optimisation would take longer than it saves.
QUICK = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@dataclass
class Started:
    """A process and the file that holds what it has printed."""

    process: subprocess.Popen[bytes]
    printed: Path

    def said(self) -> str:
        return self.printed.read_text(encoding="utf-8", errors="replace")

    def ended(self) -> int:
        """Its exit status, waited for."""
        try:
            return self.process.wait(timeout=600)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it hangs: {self.said()}") from None


@contextmanager
def started(
    config: RunConfig,
    folder: Path,
    count: int = 2,
    *options: str,
    devices: Sequence[int] | int = 2,
    of: Callable[[int], Sequence[str]] = lambda index: (),
    before: Callable[[int], Sequence[str]] = lambda index: (),
    address: str = "localhost",
    port: int | None = None,
    module: str = "simjax",
) -> Iterator[list[Started]]:
    """Processes that train by one recipe.

    Args:
        config: The recipe.
        folder: Where it and what is printed go.
        count: How many processes.
        options: For all of them.
        devices: CPU devices of each.
        of: Options of one process.
        before: A command that starts one process.
        address: Where process 0 is found.
        port: The port there; by default a free one.
        module: What stands for simjax.
    """
    folder.mkdir(exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(run_config.dump(config), encoding="utf-8")
    port = port or free_port()
    found = []
    for index in range(count):
        own = devices if isinstance(devices, int) else devices[index]
        flags = [f"--coordinator={address}:{port}", f"--num_processes={count}"]
        printed = folder / f"printed-{index}"
        with printed.open("ab") as file:
            process = subprocess.Popen(
                [
                    *before(index),
                    *(sys.executable, "-m", module, "train", str(path), *flags),
                    *(f"--process_id={index}", *options, *of(index)),
                ],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment(devices=own) | {"PYTHONPATH": os.getcwd()} | QUICK,
            )
        found.append(Started(process, printed))
    try:
        yield found
    finally:
        for one in found:
            one.process.kill()
            one.process.wait()


def comes_to(step: int, config: RunConfig, all_of_them: list[Started]) -> None:
    """Waits until the run has done so many steps."""
    wait_for(lambda: any(n["step"] >= step for n in lines(Path(config.output))), all_of_them)


def wait_for(found: Callable[[], bool], all_of_them: list[Started]) -> None:
    for _ in range(24_000):
        if found():
            return
        for one in all_of_them:
            if one.process.poll() is not None:
                raise AssertionError(f"ended with {one.process.returncode}: {one.said()}")
        time.sleep(0.01)
    raise AssertionError("it never came to that: " + all_of_them[0].said())


def writer(pipe: Path, all_of_them: list[Started]) -> BinaryIO:
    """The end of a pipe to write to, once one of the processes waits at the other."""
    found: list[int] = []

    def opened() -> bool:
        with suppress(OSError):  # nobody reads there yet
            found.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(found)

    wait_for(opened, all_of_them)
    return os.fdopen(found[0], "wb")
