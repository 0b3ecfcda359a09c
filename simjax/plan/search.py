"""The best mesh, micro-batch and exchange of keys for a recipe: many by formula, few compiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from simjax.errors import UsageError
from simjax.mesh import MeshConfig
from simjax.plan.layout import Layout, layout_of
from simjax.plan.parts import memory
from simjax.plan.planning import USABLE, Plan, mesh_of
from simjax.plan.program import make_program
from simjax.plan.roofline import Roofline, roofline
from simjax.plan.rows import Rows
from simjax.plan.shapes import Shapes
from simjax.plan.topology import Topology
from simjax.train.config import RunConfig, validate
from simjax.train.update import check_parts

COMPILED = 3
"""Candidates that are compiled, where one of them fits."""


@dataclass(frozen=True)
class Candidate:
    """One way to run a recipe.

    Attributes:
        config: The recipe with its mesh, micro-batch and exchange.
        layout: All sizes.
        bytes: Of a device, by formula.
        roofline: Times, by formula.
    """

    config: RunConfig
    layout: Layout
    bytes: int
    roofline: Roofline

    @property
    def rank(self) -> tuple[float, int]:
        """The less the better: time with nothing overlapped, then memory."""
        return self.roofline.expected[1], self.bytes


def candidates(
    config: RunConfig, topology: Topology, shapes: Shapes, rows: Rows
) -> list[Candidate]:
    """All that fit by formula, the fastest first.

    Raises:
        UsageError: Nothing fits, or `simjax train` would refuse the recipe on any mesh; this is
            then what it says of the first, which splits the batch alone.
    """
    room = USABLE * topology.chip.memory
    found: list[Candidate] = []
    refused: list[UsageError] = []
    for mesh in _meshes(topology):
        try:
            for candidate in _of_mesh(config, mesh, topology, shapes, rows):
                found.append(candidate)  # kept, even if the next one is refused
        except UsageError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    fitting = [candidate for candidate in found if candidate.bytes <= room]
    if not fitting:
        least = min(found, key=lambda candidate: candidate.bytes)
        raise UsageError(
            f"nothing fits {topology.name}: the least is {least.bytes / 2**30:.1f} GiB of a device "
            f"that has {room / 2**30:.1f}; choose train.remat layer, a smaller data.block_size or "
            "more devices"
        )
    return sorted(fitting, key=lambda candidate: candidate.rank)


def compile_best(ranked: list[Candidate], compiled: Callable[[Candidate], Plan]) -> list[Plan]:
    """Plans of the best candidates, one of which fits if any does that is compiled.

    Where the compiler needs more than the formula says for all of them, those that are as much
    smaller are compiled until one fits, as many again at most.

    Args:
        ranked: As of `candidates`.
        compiled: Makes the plan of a candidate.
    """
    plans = [compiled(candidate) for candidate in ranked[:COMPILED]]
    more = 0
    for candidate in ranked[COMPILED:]:
        if any(plan.fits for plan in plans) or more == COMPILED:
            break
        beyond = max(plan.total - plan.memory.total for plan in plans)
        if candidate.bytes + beyond <= plans[0].room:
            plans.append(compiled(candidate))
            more += 1
    return plans


def _meshes(topology: Topology) -> Iterator[MeshConfig]:
    for tensor in _powers(topology.devices):
        for fsdp in _powers(topology.devices // tensor):
            gathers: tuple[Literal["step", "layer"], ...] = ("step", "layer")
            for gather in gathers[: 2 if fsdp > 1 else 1]:
                yield MeshConfig(-1, fsdp, tensor, gather)


def _powers(n: int) -> Iterator[int]:
    """1, 2, 4 and so on, as far as they divide ``n``."""
    power = 1
    while n % power == 0:
        yield power
        power *= 2


def _of_mesh(
    config: RunConfig, mesh: MeshConfig, topology: Topology, shapes: Shapes, rows: Rows
) -> Iterator[Candidate]:
    """Micro-batches and exchanges on one mesh.

    Raises:
        UsageError: `simjax train` would refuse it.
    """
    train = dataclasses.replace(config.train, micro_batch=None)
    config = dataclasses.replace(config, mesh=mesh, train=train)
    validate(config)
    program = make_program(config, mesh_of(config, topology, compiling=False), shapes, rows)
    layout = layout_of(program)
    exchanges: tuple[Literal["all_gather", "ring"], ...] = (
        ("all_gather", "ring") if layout.parts > 1 else ("all_gather",)
    )
    for micro in range(1, layout.share + 1):
        if layout.share % micro:
            continue
        if micro == layout.share:
            check_parts(config, layout.parts, several=False)
        for exchange in exchanges:
            keys = exchange if layout.parts > 1 else None
            sized = dataclasses.replace(layout, micro=micro, keys=keys)
            chosen = dataclasses.replace(
                config,
                mesh=dataclasses.replace(mesh, keys=keys),
                train=dataclasses.replace(train, micro_batch=micro * layout.block),
            )
            needed = memory(sized, topology.chip.platform).total
            yield Candidate(chosen, sized, needed, roofline(sized, topology.chip))
