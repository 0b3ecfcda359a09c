"""What a compiled program sends between devices, read off its text, loops as they turn."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")
_SIZES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "bf16": 2,
    "f16": 2,
    "s16": 2,
    "u16": 2,
    "f32": 4,
    "s32": 4,
    "u32": 4,
    "f64": 8,
    "s64": 8,
    "u64": 8,
}
_CALLS = re.compile(r"(?:body|calls|to_apply|true_computation|false_computation)=(%[^,\s)]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_WHILE = re.compile(r"condition=(%[^,\s)]+), body=(%[^,\s)]+)")
_TURNS = re.compile(r'"known_trip_count":\s*\{"n":\s*"(\d+)"')
_OPERATION = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")


@dataclass(frozen=True)
class Collective:
    """One instruction that sends.

    Attributes:
        kind: One of `KINDS`.
        arrays: Its results, as (type, elements).
        turns: How often it runs in one run of the program.
        group: Devices that take part together.
        depth: Loops around it.
    """

    kind: str
    arrays: tuple[tuple[str, int], ...]
    turns: int
    group: int
    depth: int

    @property
    def elements(self) -> int:
        """Of its largest array."""
        return max((count for _, count in self.arrays), default=0)

    @property
    def sent(self) -> float:
        """Bytes that each device sends, of all turns.

        Of a result of S bytes among n devices, in the cheapest way that there is: a gather
        (n - 1) / n S, a reduction to all twice that, one to parts (n - 1) S, others S.
        """
        size = sum(_SIZES[dtype] * count for dtype, count in self.arrays)
        n = self.group
        share = {
            "all-gather": (n - 1) / n,
            "all-reduce": 2 * (n - 1) / n,
            "reduce-scatter": n - 1,
            "all-to-all": (n - 1) / n,
        }
        return self.turns * size * share.get(self.kind, 1)


def collectives(program: Any, devices: int) -> list[Collective]:
    """Those of a compiled program for so many devices."""
    return list(_found(program.as_text(), devices))


def bytes_sent(program: Any, devices: int) -> dict[str, float]:
    """What each device sends in one run, by kind of collective."""
    total: dict[str, float] = {}
    for found in collectives(program, devices):
        total[found.kind] = total.get(found.kind, 0) + found.sent
    return total


def largest(program: Any, devices: int) -> dict[str, int]:
    """The most elements that each kind of collective carries at once."""
    most: dict[str, int] = {}
    for found in collectives(program, devices):
        most[found.kind] = max(most.get(found.kind, 0), found.elements)
    return most


def computations_run(text: str) -> Iterator[tuple[str, int, int]]:
    """The body of each computation of a compiled program, how often it runs, and loops around it.

    Raises:
        ValueError: this is no text of a compiled program, or a loop's turns cannot be told.
    """
    computations = {
        name: body
        for name, body in re.findall(r"^(?:ENTRY )?(%\S+) \(.*?\{$(.*?)^\}", text, re.M | re.S)
    }
    entry = re.search(r"^ENTRY (%\S+) ", text, re.M)
    if entry is None:
        raise ValueError("the compiled program's text has no entry")
    runs: dict[tuple[str, int], int] = {}
    _count(computations, entry.group(1), 1, 0, runs)
    for (name, depth), turns in runs.items():
        yield computations[name], turns, depth


def _found(text: str, devices: int) -> Iterator[Collective]:
    for body, turns, depth in computations_run(text):
        for line in body.splitlines():
            operation = _OPERATION.search(line)
            if operation is not None:
                shapes, kind, start = operation.groups()
                results = shapes if start is None else _started(shapes, kind)
                yield Collective(kind, _arrays(results), turns, _group(line, devices), depth)


def _count(
    computations: dict[str, str],
    name: str,
    turns: int,
    depth: int,
    runs: dict[tuple[str, int], int],
) -> None:
    """How often each computation that is called from ``name`` runs, by the loops around it."""
    runs[name, depth] = runs.get((name, depth), 0) + turns
    for line in computations[name].splitlines():
        if "-done(" in line or "-update(" in line:
            continue  # of what was begun, and counted, before
        loop = _WHILE.search(line)
        if loop is not None:
            condition, body = loop.groups()
            times = _trip_count(line, computations[condition])
            _count(computations, body, turns * times, depth + 1, runs)
            continue
        called = _CALLS.findall(line)
        for branches in _BRANCHES.findall(line):
            called += branches.replace(",", " ").split()
        for inner in called:
            if inner in computations:
                _count(computations, inner, turns, depth, runs)


def _trip_count(line: str, condition: str) -> int:
    known = _TURNS.search(line)
    if known is not None:
        return int(known.group(1))
    # The counter is compared with the one number that is above 0.
    bounds = re.findall(r"s32\[\]\S* constant\(([1-9]\d*)\)", condition)
    if len(bounds) != 1:
        raise ValueError(f"a loop's number of turns cannot be read from its condition: {condition}")
    return int(bounds[0])


def _started(shapes: str, kind: str) -> str:
    """The results of what is begun here, of the shapes that its instruction has.

    A gather and a permute have (operands, results, ...), each an array or a tuple of several; what
    has no start of its own has ((operands), results, ...). An all-reduce has its results alone.
    """
    elements = _elements(shapes)
    if kind == "all-reduce" and not elements[0].startswith("("):
        return shapes
    return elements[1] if len(elements) > 1 else shapes


def _elements(shapes: str) -> list[str]:
    """Of a tuple; layouts such as {1,0:T(8,128)} have commas of their own."""
    if not shapes.startswith("("):
        return [shapes]
    elements, depth = [""], 0
    for character in shapes[1:-1]:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            elements.append("")
        else:
            elements[-1] += character
    return [element.strip() for element in elements]


def _arrays(shapes: str) -> tuple[tuple[str, int], ...]:
    return tuple(
        (dtype, math.prod(int(n) for n in shape.split(",") if n))
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
        if dtype in _SIZES
    )


def _group(line: str, devices: int) -> int:
    """Devices of a group: {{0,1},{2,3}} lists them, [2,4]<=[8] gives groups and their size."""
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    if listed is not None:
        return listed.group(1).count(",") + 1
    tiled = re.search(r"replica_groups=\[(\d+),(\d+)\]", line)
    return devices if tiled is None else int(tiled.group(2))
