"""A plan of a recipe: what its step takes of each device, and how long it may take."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

from simjax import mesh as meshes
from simjax.plan.compiled import Compiled, compile_step
from simjax.plan.layout import Layout, layout_of
from simjax.plan.parts import Memory, memory
from simjax.plan.program import Program, make_program
from simjax.plan.roofline import Roofline, roofline
from simjax.plan.rows import Rows
from simjax.plan.shapes import Shapes
from simjax.plan.topology import Topology, tpu_devices
from simjax.train.config import RunConfig
from simjax.train.update import check_parts

USABLE = 0.95
"""Of a device's memory: the rest is the runtime's, and lost between arrays."""


@dataclass(frozen=True)
class Plan:
    """What is known of a step beforehand.

    Attributes:
        config: The recipe, with the micro-batch that is planned.
        topology: The devices.
        shapes: The model.
        rows: How texts are packed.
        layout: All sizes.
        compiled: What the compiler says, where it was asked.
        asked_batch: The recipe's batch, where it was too small for so many devices.
    """

    config: RunConfig
    topology: Topology
    shapes: Shapes
    rows: Rows
    layout: Layout
    compiled: Compiled | None = None
    asked_batch: int | None = None

    @property
    def room(self) -> int:
        """Bytes of a device that a step may take."""
        return int(USABLE * self.topology.chip.memory)

    @cached_property
    def memory(self) -> Memory:
        """By formula."""
        return memory(self.layout, self.topology.chip.platform)

    @property
    def total(self) -> int:
        """Bytes of a device: by the compiler where it was asked, else by formula."""
        return self.memory.total if self.compiled is None else self.compiled.total

    @property
    def fits(self) -> bool:
        """Whether a device has the memory."""
        return self.total <= self.room

    @cached_property
    def roofline(self) -> Roofline:
        """Times of a step, with the bytes that the compiled program sends, if there is one."""
        sent = None
        if self.compiled is not None and self.compiled.needed is None:
            sent = self.compiled.sent()
        return roofline(self.layout, self.topology.chip, sent)

    @cached_property
    def largest_batch(self) -> int:
        """Examples of the largest global batch that fits, in micro-batches as they are planned.

        By formula, with what the compiler needs beyond it; 0 if not even one micro-batch fits.
        """
        layout = self.layout
        if layout.keys is None and layout.parts > 1:
            # Gathered keys give way to the ring where they are many, which then takes less.
            ring = self._most(dataclasses.replace(layout, keys="ring"))
            if layout.with_blocks(ring * layout.micro, layout.micro).exchange == "ring":
                return ring * layout.micro * layout.block * layout.parts
        return self._most(layout) * layout.micro * layout.block * layout.parts

    def _most(self, layout: Layout) -> int:
        """Micro-batches of a device that fit, at most."""
        remainder = self.total - self.memory.total

        def fits(count: int) -> bool:
            larger = layout.with_blocks(count * layout.micro, layout.micro)
            needed = memory(larger, self.topology.chip.platform).total
            return needed + remainder <= self.room

        low, high = 0, 1
        while fits(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low


def with_batch_for(config: RunConfig, devices: int) -> RunConfig:
    """A recipe with at least a block for each device that has a part of the batch.

    `simjax train` refuses a smaller batch. Which larger one it should be is for the user to say;
    the smallest is what a plan can be made of.
    """
    mesh = config.mesh
    if mesh.tensor < 1:
        return config  # which is refused where the mesh is made
    parts = devices // mesh.tensor if mesh.data == -1 else mesh.data * mesh.fsdp
    if config.data.batch_size // config.data.block >= parts:
        return config
    data = dataclasses.replace(
        config.data, batch_size=parts * config.data.block, block_size=config.data.block
    )
    return dataclasses.replace(config, data=data)


def make_plan(
    config: RunConfig,
    topology: Topology,
    shapes: Shapes,
    rows: Rows,
    *,
    compiling: bool,
    asked_batch: int | None = None,
) -> Plan:
    """Plans a recipe as it stands, in the largest micro-batches that fit unless it names them.

    Raises:
        UsageError: The recipe does not fit the devices.
        SimjaxError: There is no compiler, or it fails.
    """
    program = make_program(config, mesh_of(config, topology, compiling=compiling), shapes, rows)
    if config.train.micro_batch is None:
        program = program.with_micro(_largest_micro(program, topology))
    layout = layout_of(program)
    check_parts(config, layout.parts, layout.several)
    micro = program.micro * config.data.block
    train = dataclasses.replace(config.train, micro_batch=micro)
    planned = dataclasses.replace(config, train=train)
    compiled = compile_step(program) if compiling else None
    return Plan(planned, topology, shapes, rows, layout, compiled, asked_batch)


def mesh_of(config: RunConfig, topology: Topology, *, compiling: bool) -> meshes.AnyMesh:
    """The devices of a topology, or their layout alone."""
    if compiling:
        return meshes.make_mesh(config.mesh, list(tpu_devices(topology.name)))
    return meshes.abstract_mesh(config.mesh, topology.devices, topology.chip.per_host)


def _largest_micro(program: Program, topology: Topology) -> int:
    """Blocks of the largest micro-batch that fits by formula, or one."""
    share, layout = program.share, layout_of(program)
    room = USABLE * topology.chip.memory
    for blocks in range(share, 0, -1):
        if share % blocks == 0:
            smaller = dataclasses.replace(layout, micro=blocks)
            if memory(smaller, topology.chip.platform).total <= room:
                return blocks
    return 1
