"""The real training step of a recipe, traced and compiled from shapes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from simjax import mesh as meshes
from simjax.mesh import AnyMesh
from simjax.plan.rows import Rows
from simjax.plan.shapes import Shapes, abstract_heads, assumed_vocabulary
from simjax.train.config import RunConfig
from simjax.train.state import TrainState
from simjax.train.step import blocks_per_device
from simjax.train.system import Facts
from simjax.train.update import Update, check_shape, check_tensor, make_update
from simjax.types import Batch, Block

_STEPS = 10**6
"""Of a run whose recipe gives epochs; they decide the learning rate alone."""


@dataclass(frozen=True)
class Program:
    """A step with what it takes in, as shapes.

    Attributes:
        config: The recipe.
        mesh: The devices, or their layout alone, for which nothing can be compiled.
        shapes: The model.
        rows: How its texts are packed.
        update: What the step is made of.
        state: What is trained, and the optimiser's.
        batch: A global batch.
        share: Blocks that each device has of it.
        micro: Blocks of a micro-batch.
    """

    config: RunConfig
    mesh: AnyMesh
    shapes: Shapes
    rows: Rows
    update: Update
    state: TrainState
    batch: Batch
    share: int
    micro: int

    def compile(self) -> Any:
        """The step, compiled for the devices of the mesh."""
        step: Any = self.update.step(self.micro)
        return step.lower(self.state, self.batch).compile()

    def with_micro(self, blocks: int) -> Program:
        """With another micro-batch."""
        return dataclasses.replace(self, micro=blocks)


def make_program(config: RunConfig, mesh: AnyMesh, shapes: Shapes, rows: Rows) -> Program:
    """The step of a recipe on some devices, with the micro-batch that it names.

    Raises:
        UsageError: The recipe does not fit the devices.
    """
    share, micro = blocks_per_device(
        config.data.batch_size, config.data.block, config.train.micro_batch, mesh
    )
    check_shape(config, shapes.encoder)
    check_tensor(config.mesh, shapes.encoder)
    update = make_update(
        config,
        mesh,
        shapes.model,
        abstract_heads(config, shapes.encoder),
        Facts(rows.positives, vocabulary=assumed_vocabulary(config, shapes.encoder)),
        config.train.steps or _STEPS,
    )
    batch = abstract_batch(config, mesh, rows, shapes.guide_width)
    return Program(config, mesh, shapes, rows, update, update.abstract_state(), batch, share, micro)


def abstract_batch(config: RunConfig, mesh: AnyMesh, rows: Rows, guide_width: int = 0) -> Batch:
    """A global batch of so many rows to a block, without its content.

    Args:
        config: The recipe.
        mesh: What the batch is split over.
        rows: The rows of a block.
        guide_width: Of the vectors of a guide that it carries along; 0 without one.
    """
    data = config.data
    blocks, size, views = data.batch_size // data.block, data.block, rows.views
    sharding = meshes.batch_sharding(mesh)

    def array(*shape: int) -> Any:
        return jax.ShapeDtypeStruct((blocks, *shape), jnp.int32, sharding=sharding)

    packed = (rows.rows, data.row_length)
    segment = array(*packed) if data.views == "paraphrases" else None
    block = Block(
        array(*packed), array(*packed), array(*packed), array(size * views), segment=segment
    )
    guide: Any = None
    if guide_width:
        texts = (blocks, size, views, guide_width)
        guide = jax.ShapeDtypeStruct(texts, jnp.float32, sharding=sharding)
    return Batch(block, array(size, views), array(size), array(), guide=guide)
