"""How a process joins the others of its run, and how it leaves them."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, NoReturn

import jax
from jax.errors import JaxRuntimeError

from simjax.errors import SimjaxError, UsageError
from simjax.processes import board, watch
from simjax.processes.gathering import come, gather
from simjax.processes.roll_call import Disagreement
from simjax.processes.watch import Watch

_EXPORT = 7 * 24 * 3600.0
"""Seconds that processes wait at most for process 0 to write what a run leaves behind."""


@dataclass(frozen=True)
class ProcessConfig:
    """Which processes compute together, and how long they wait for each other.

    Attributes:
        coordinator: HOST:PORT at which process 0 is found; the port is free there.
        num_processes: Processes in all.
        process_id: Number of this one, from 0.
        distributed: Whether to ask JAX to find the other processes where the three above are not
            given: ``yes``, ``no``, or ``auto``, which does if the environment names several.
        heartbeat_timeout: Seconds of silence after which a process counts as gone.
        initialization_timeout: Seconds in which all processes have to come together.
        shutdown_timeout: Seconds in which all processes have to disconnect, once the last of them
            is done.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    distributed: Literal["auto", "yes", "no"] = "auto"
    heartbeat_timeout: int = 100
    initialization_timeout: int = 300
    shutdown_timeout: int = 300

    def __post_init__(self) -> None:
        for key in ("heartbeat_timeout", "initialization_timeout", "shutdown_timeout"):
            if getattr(self, key) < 1:
                raise UsageError(f"--{key} is {getattr(self, key)}: give at least 1 second")
        given = {key: getattr(self, key) for key in _WHO}
        missing = [f"--{key}" for key, value in given.items() if value is None]
        if 0 < len(missing) < len(_WHO):
            raise UsageError(
                f"{', '.join(missing)} missing: give --coordinator, --num_processes and "
                "--process_id together, or --distributed yes, which finds them on a cluster"
            )
        if self.coordinator is None or self.num_processes is None or self.process_id is None:
            return
        if self.distributed != "auto":
            raise UsageError("--distributed: give it, or --coordinator, and not both")
        if self.num_processes < 1:
            raise UsageError(f"--num_processes is {self.num_processes}: give at least 1")
        if not 0 <= self.process_id < self.num_processes:
            raise UsageError(
                f"--process_id is {self.process_id}: {self.num_processes} processes are numbered "
                f"from 0 to {self.num_processes - 1}"
            )
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise UsageError(f"--coordinator: {self.coordinator!r} is not HOST:PORT")


_WHO = ("coordinator", "num_processes", "process_id")


def detected() -> str | None:
    """What in the environment says that this is one of several processes, by name."""
    if os.environ.get("JAX_COORDINATOR_ADDRESS"):
        return "JAX_COORDINATOR_ADDRESS"
    for variable in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        if os.environ.get(variable, "").isdecimal() and int(os.environ[variable]) > 1:
            return variable
    # As GKE gives it to the pods of a TPU slice.
    return "TPU_WORKER_HOSTNAMES" if "," in os.environ.get("TPU_WORKER_HOSTNAMES", "") else None


_watch: Watch | None = None


@contextmanager
def joined(config: ProcessConfig) -> Iterator[None]:
    """The block runs as one of several processes, if there are several.

    They leave it together. One that fails tells the others why and is to `leave`; the others then
    end as well, wherever they are.

    Raises:
        SimjaxError: The others cannot be found; or another process is the reason for the error
            that left the block.
    """
    global _watch
    if not _wanted(config):
        yield
        return
    _initialize(config)
    group = board.of_this_run()
    if group is None:
        yield
        return
    _watch = Watch(group, config.heartbeat_timeout)
    _watch.start()
    differ: Disagreement | None = None
    try:
        try:
            yield
        except Disagreement as error:
            differ = error  # as on all the others
        _watch.board.meet("end", seconds=_EXPORT)
    except BaseException as error:
        told = _watch.culprit() if _of_a_computation(error) else None
        if told is None:
            _watch.has_failed(" ".join(str(error).split()) or type(error).__name__)
            raise
        _watch.last_words(told)
        raise SimjaxError(watch.gone_on(told)) from error
    _watch.stop()
    _watch = None
    jax.distributed.shutdown()
    if differ is not None:
        raise differ


def told_to_leave(why: str) -> None:
    """Lets the others know at once that this process ends, whatever its main thread is in.

    From here on no watch ends it first, with a word and a status of another process's.
    """
    if _watch is not None:
        _watch.has_failed(why)


def leave(status: int) -> None:
    """Ends this process at once if it has joined others and not left them; else does nothing.

    An ordinary end would wait for the others, which wait for this process.
    """
    if _watch is None:
        return
    with suppress(OSError):  # whoever would have read it may be gone
        if sys.exc_info()[1] is not None:
            traceback.print_exc()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    _watch.linger()
    os._exit(status)


def _of_a_computation(error: BaseException | None) -> bool:
    """Whether an error comes from JAX, as it does when a process is gone that others wait for."""
    while error is not None:
        if isinstance(error, JaxRuntimeError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _wanted(config: ProcessConfig) -> bool:
    if config.coordinator is not None:
        return config.num_processes != 1
    return config.distributed == "yes" or (config.distributed == "auto" and detected() is not None)


def _initialize(config: ProcessConfig) -> None:
    deadline = time.monotonic() + config.initialization_timeout
    address, process, count = config.coordinator, config.process_id, config.num_processes
    if address is not None and process is not None and count is not None:
        if process == 0:
            gather(address, count, config.initialization_timeout)
        else:
            come(address, process, count, config.initialization_timeout)
    # It would take SIGTERM for itself, and swallow one that comes before training has begun.
    jax.config.update("jax_enable_preemption_service", False)
    # JAX ends the process where we raise an error or say what has happened: it gets more time.
    spare = 30
    left = max(1.0, deadline - time.monotonic())
    late = threading.Timer(left, _not_all_came, args=(config,))
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            *(address, count, process),
            cluster_detection_method=None if address is None else "deactivate",
            initialization_timeout=round(left) + spare,
            heartbeat_timeout_seconds=2 * config.heartbeat_timeout + spare,
            shutdown_timeout_seconds=config.shutdown_timeout,
        )
    except (JaxRuntimeError, RuntimeError, ValueError) as error:
        asked = detected() or "--distributed yes"
        raise SimjaxError(
            f"{config.coordinator or asked}: the processes cannot be joined ({error}); give "
            "--coordinator, --num_processes and --process_id"
        ) from error
    finally:
        late.cancel()


def _not_all_came(config: ProcessConfig) -> NoReturn:
    who = "a process" if config.process_id is None else f"process {config.process_id}"
    count = "" if config.num_processes is None else f"{config.num_processes} "
    with suppress(OSError):  # as above
        print(
            f"simjax: {who}: not all {count}processes of the run have come within "
            f"{config.initialization_timeout} seconds; see what has become of the others",
            file=sys.stderr,
            flush=True,
        )
    os._exit(1)
