"""Before anything is computed, all processes must run the same code on the same things."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import jax

from simjax import __version__
from simjax.dotted import flatten
from simjax.errors import SimjaxError, UsageError
from simjax.processes import board
from simjax.remote import without_secrets

_Answer = TypeVar("_Answer")

_LONG = 7 * 24 * 3600.0
"""Seconds. How far apart processes come is no fault; one that is gone is the watch's to find."""

_calls: defaultdict[str, itertools.count[int]] = defaultdict(itertools.count)


class Disagreement(SimjaxError):
    """What processes have differs; all of them raise this alike."""


def versions() -> dict[str, str]:
    """What code this process runs: simjax by its sources, and the libraries that compute."""
    found = {"simjax": f"{__version__}, sources {_sources()[:12]}"}
    for name in ("jax", "jaxlib", "flax", "optax", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # it lies on the path without being installed
            found[name] = "unknown"
    return found


def devices() -> dict[str, str]:
    """What this process computes on: how many devices of which kind.

    Raises:
        SimjaxError: JAX cannot use those that the environment names, or finds none.
    """
    kinds = Counter(device.device_kind for device in _asked(jax.local_devices))
    return {"local devices": ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))}


@cache
def _sources() -> str:
    """A digest of the package's sources, which tells an edited copy from a released one."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def agree(subject: str, mine: Mapping[str, Any]) -> None:
    """Holds what this process has to what the others have; all processes call this together.

    Args:
        subject: What it is about, in a word.
        mine: Of what JSON can hold, nested or not.

    Raises:
        Disagreement: On every process, if any two differ: who is alone with what.
        UsageError: There are other processes, and they have not been joined.
    """
    group = board.of_this_run()
    if group is None:
        _check_alone()
        return
    subject = _again(subject)
    said = json.dumps(flatten(json.loads(json.dumps(mine, default=str))), sort_keys=True)
    group.tell(f"{subject}/all", said)
    group.tell(f"{subject}/digest", hashlib.sha256(said.encode()).hexdigest())
    group.meet(subject, seconds=_LONG)
    # A thousand configurations would be much to send to a thousand processes.
    if len(set(group.heard(f"{subject}/digest").values())) == 1:
        return
    everything = group.heard(f"{subject}/all")
    hosts = group.heard("host")
    told = differences([json.loads(everything[index]) for index in range(group.count)], hosts)
    raise Disagreement(
        f"the processes of this run differ: {told}; start all of them with the same code, recipe, "
        "data and devices"
    )


def answers(question: str, mine: str) -> list[tuple[str, str]]:
    """What all processes answer to a question, by their names; all call this together.

    Raises:
        UsageError: There are other processes, and they have not been joined.
    """
    group = board.of_this_run()
    if group is None:
        _check_alone()
        return [("process 0", mine)]
    question = _again(question)
    group.tell(question, mine)
    group.meet(question, seconds=_LONG)
    heard, hosts = group.heard(question), group.heard("host")
    return [(name(index, hosts), heard[index]) for index in range(group.count)]


def meet(place: str) -> None:
    """Waits until all processes have come here; alone, it does not wait."""
    group = board.of_this_run()
    if group is not None:
        group.meet(_again(place), seconds=_LONG)


def _again(subject: str) -> str:
    """A name of its own for a question that comes again, in this run or in a later one."""
    return f"{subject}-{next(_calls[subject])}"


def _check_alone() -> None:
    # On a pod of TPUs a process sees the devices of all hosts, joined or not.
    count = _asked(jax.process_count)
    if count > 1:
        raise UsageError(
            f"the devices here belong to {count} processes, which have not been "
            "joined: give --distributed yes, or --coordinator"
        )


def _asked(question: Callable[[], _Answer]) -> _Answer:
    """What JAX answers, which looks for devices when it is first asked about them."""
    try:
        return question()
    except (RuntimeError, AssertionError) as error:  # the latter where a platform has no devices
        why = str(error) or "it finds none"
        raise SimjaxError(
            f"JAX cannot use the devices of this machine ({why}); JAX_PLATFORMS is "
            f"{os.environ.get('JAX_PLATFORMS') or 'not set'}: are the driver and JAX's package "
            "for them installed?"
        ) from error


def differences(said: Sequence[Mapping[str, Any]], hosts: Mapping[int, str]) -> str:
    """Who is alone with what, in words.

    For each key the value that most processes have is taken for the right one, among equally
    frequent ones that of the lowest process.

    Args:
        said: Values by key, for each process.
        hosts: Where a process runs, for those that have said so.
    """
    by_process: defaultdict[int, list[str]] = defaultdict(list)
    for key in sorted({key for one in said for key in one}):
        values = [json.dumps(one[key]) if key in one else "nothing" for one in said]
        usual = Counter(values).most_common(1)[0][0]
        for index, value in enumerate(values):
            if value != usual:
                by_process[index].append(f"{key} {_short(value)} (others: {_short(usual)})")
    return "; ".join(
        f"{name(index, hosts)} has {', '.join(_few(found))}"
        for index, found in _few_processes(by_process)
    )


def name(index: int, hosts: Mapping[int, str]) -> str:
    """A process, and where it runs if that is known."""
    return f"process {index} ({hosts[index]})" if index in hosts else f"process {index}"


def _few(found: list[str]) -> list[str]:
    return found if len(found) <= 5 else [*found[:5], f"{len(found) - 5} more"]


def _few_processes(found: Mapping[int, list[str]]) -> list[tuple[int, list[str]]]:
    return sorted(found.items())[:5]


def _short(value: str) -> str:
    value = without_secrets(value)
    return value if len(value) <= 80 else f"{value[:60]}...{value[-15:]}"
