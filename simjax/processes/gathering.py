"""How the processes of a run come together at an address, before JAX connects them there.

JAX's coordinator takes whoever says a number: one process of a second run at the same address ends
the first run on all its processes. So process 0 listens there itself at first, asks who comes, and
says when all are here; only then is the port JAX's.
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import socket
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress

from simjax.errors import SimjaxError

_PREFIX = b"simjax "
_ALL_HERE = _PREFIX + b"all here"
_REFUSED = _PREFIX + b"refused: "
_LONGEST = 4096
"""Bytes of a line that a process may say."""
_PAUSE = 0.1
"""Seconds between two tries."""


def gather(address: str, count: int, seconds: float) -> None:
    """On process 0: returns once all other processes are here.

    Args:
        address: HOST:PORT, of which the port is taken on this machine.
        count: Processes in all.
        seconds: How long they may take.

    Raises:
        SimjaxError: The port is in use, or processes have not come; says which.
    """
    deadline = time.monotonic() + seconds
    with ExitStack() as stack:
        door = stack.enter_context(_listening(address))
        ready = stack.enter_context(selectors.DefaultSelector())
        door.setblocking(False)
        ready.register(door, selectors.EVENT_READ)
        callers: dict[socket.socket, bytes] = {}
        here: dict[int, socket.socket] = {}
        while len(here) < count - 1:
            left = deadline - time.monotonic()
            if left <= 0:
                missing = [index for index in range(1, count) if index not in here]
                told = (
                    f"of the {count} processes of this run {_listed(missing)} did not come to "
                    f"{address} within {seconds:g} seconds; see what has become of them"
                )
                _answer(callers, _REFUSED + told.encode())
                raise SimjaxError(f"process 0: {told}")
            for key, _ in ready.select(min(left, 1.0)):
                caller = key.fileobj
                assert isinstance(caller, socket.socket)
                if caller is door:
                    with suppress(OSError):  # it may have gone again
                        caller, _ = door.accept()
                        caller.setblocking(False)
                        callers[stack.enter_context(caller)] = b""
                        ready.register(caller, selectors.EVENT_READ)
                elif not _heard(caller, callers, here, count):
                    ready.unregister(caller)
                    del callers[caller]
                    here = {index: one for index, one in here.items() if one is not caller}
                    caller.close()
        # Before they are told: who comes from now on finds JAX here, or nobody.
        door.close()
        _answer(here.values(), _ALL_HERE)


def come(address: str, process: int, count: int, seconds: float) -> None:
    """On any other process: returns once all are there, and JAX's coordinator with them.

    Raises:
        SimjaxError: Process 0 does not answer for so long, or does not want this process.
    """
    host, _, port = address.rpartition(":")
    where = (host.strip("[]"), int(port))
    hello = {"process": process, "of": count, "at": f"{socket.gethostname()}, pid {os.getpid()}"}
    deadline = time.monotonic() + seconds
    complete = warned = False
    while True:
        left = max(deadline - time.monotonic(), 0.1)
        try:
            with socket.create_connection(where, timeout=min(left, 10.0)) as door:
                if complete:
                    return
                door.settimeout(left)
                door.sendall(_PREFIX + json.dumps(hello).encode() + b"\n")
                answer = _line(door)
        except OSError as error:  # a name that is not known yet, too
            why = str(error)
        else:
            if answer == _ALL_HERE:
                complete = True
                continue
            if answer.startswith(_REFUSED):
                told = answer.removeprefix(_REFUSED).decode(errors="replace")
                raise SimjaxError(f"process {process}: {told}")
            why = "something else listens there, maybe another run"
            if answer and not warned:
                warned = True
                print(
                    f"simjax: process {process}: {address}: {why}; waiting for it to go",
                    file=sys.stderr,
                    flush=True,
                )
        if time.monotonic() >= deadline:
            raise SimjaxError(
                f"process {process}: no coordinator at {address} for {seconds:g} seconds ({why}); "
                "is process 0 running, at that address, and can it be reached?"
            )
        time.sleep(_PAUSE)


def _listening(address: str) -> socket.socket:
    """A socket at the port of an address.

    Two coordinators could listen at one port, each unaware of the other; this one does not share.

    Raises:
        SimjaxError: Something listens there, or it cannot be listened there.
    """
    port = int(address.rpartition(":")[2])
    try:
        door = socket.socket(socket.AF_INET6)
    except OSError:  # this machine has no such addresses
        door = socket.socket(socket.AF_INET)
    try:
        # What a run that has just ended has left in the kernel is no listener.
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(("", port))
        door.listen(1024)
    except OSError as error:
        door.close()
        if error.errno == errno.EADDRINUSE:
            raise SimjaxError(
                f"--coordinator {address}: port {port} is in use on this machine, maybe by "
                "another run; choose another one for all processes"
            ) from error
        raise SimjaxError(
            f"--coordinator {address}: process 0 cannot listen at port {port} ({error.strerror})"
        ) from error
    return door


def _heard(
    caller: socket.socket,
    callers: dict[socket.socket, bytes],
    here: dict[int, socket.socket],
    count: int,
) -> bool:
    """Takes in what a caller has said; False if it has gone or is not to be here."""
    try:
        said = caller.recv(_LONGEST)
    except OSError:
        return False
    callers[caller] += said
    line, end, _ = callers[caller].partition(b"\n")
    if not said or len(line) > _LONGEST:
        return False
    if not end:
        return True
    try:
        hello = json.loads(line.removeprefix(_PREFIX))
        process, of, at = int(hello["process"]), int(hello["of"]), str(hello["at"])
    except (ValueError, KeyError, TypeError):
        return False  # whoever it is, it is no process of simjax
    why = None
    if of != count:
        why = f"--num_processes is {count} on process 0 and {of} on process {process} ({at})"
    elif process in here and here[process] is not caller:
        why = f"--process_id {process} has been given to another process already, and to {at}"
    elif not 0 < process < count:
        why = f"--process_id is {process} on {at}"
    if why is None:
        here[process] = caller
        return True
    print(f"simjax: process 0: refused: {why}", file=sys.stderr, flush=True)
    _answer([caller], _REFUSED + why.encode())
    return False


def _answer(callers: Iterable[socket.socket], text: bytes) -> None:
    for caller in callers:
        with suppress(OSError):  # one that has gone is missed later
            caller.sendall(text + b"\n")


def _line(door: socket.socket) -> bytes:
    """What process 0 says; whatever another program says, at most until that is clear."""
    heard = b""
    while not heard.endswith(b"\n") and len(heard) < _LONGEST:
        more = door.recv(_LONGEST)
        if not more or not (heard + more).startswith(_PREFIX[: len(heard + more)]):
            return heard + more
        heard += more
    return heard.rstrip(b"\n")


def _listed(numbers: list[int]) -> str:
    """Numbers in words, as many as can be read."""
    told = ", ".join(map(str, numbers[:10]))
    return told if len(numbers) <= 10 else f"{told} and {len(numbers) - 10} more"
