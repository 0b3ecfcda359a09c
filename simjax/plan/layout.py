"""The sizes that all formulas go by: of model, batch and mesh, and what a device has of them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from simjax import mesh as meshes
from simjax.errors import UsageError
from simjax.models.config import EncoderConfig
from simjax.models.encoder import Remat
from simjax.objectives.config import ContrastiveConfig
from simjax.objectives.masked_lm import room
from simjax.ops.sharded import Exchange, choose_exchange
from simjax.plan.program import Program
from simjax.train import lora
from simjax.train.state import is_stacked

Platform: TypeAlias = Literal["cpu", "gpu", "tpu"]

_FLOAT = 4
"""Bytes of a float32, which parameters, gradients and embeddings are."""


@dataclass(frozen=True)
class Held:
    """Bytes of a device, of what lies as partitions say.

    Attributes:
        parameters: Its part of them.
        optimizer: Its part of the optimiser's state, and of an average.
        layers: Parameters of stacked layers once they are whole over `mesh.fsdp`.
        rest: All others, likewise.
        trained: Share of the parameters that have gradients.
        adapted: Kernels that adapters are merged into, likewise whole.
        weighed: Share of the layers' kernels whose own gradients are computed.
        reached: Gradients go back into the encoder at all.
    """

    parameters: int
    optimizer: int
    layers: int
    rest: int
    trained: float
    adapted: int = 0
    weighed: float = 1.0
    reached: bool = True

    @property
    def whole(self) -> int:
        """All parameters once they are gathered."""
        return self.layers + self.rest


@dataclass(frozen=True)
class Layout:
    """Sizes of a step, and of one device's part of it.

    Attributes:
        shape: The encoder.
        held: Its parameters, and the optimiser's state.
        dtype: Of the products.
        width: Of the embeddings.
        devices: All of them.
        parts: That the batch is split into.
        tensor: Devices that share each layer.
        fsdp: Devices that share parameters.
        by_layer: Parameters are gathered layer by layer.
        keys: How devices shall see each other's keys; None goes by their size.
        batch_size: Examples of the global batch.
        block: Examples of a block.
        share: Blocks of a device.
        micro: Blocks of a micro-batch.
        rows: Rows of a block.
        row_length: Tokens of a row.
        views: Texts of an example.
        positives: How many of them are positives.
        mean_tokens: Of a text.
        remat: What the backward pass computes anew.
        objective: The loss.
        guide_width: Of a guide's embeddings; 0 without one.
        segments: Texts have two.
    """

    shape: EncoderConfig
    held: Held
    dtype: str
    width: int
    devices: int
    parts: int
    tensor: int
    fsdp: int
    by_layer: bool
    keys: Exchange | None
    batch_size: int
    block: int
    share: int
    micro: int
    rows: int
    row_length: int
    views: int
    positives: int
    mean_tokens: float
    remat: Remat | None
    objective: ContrastiveConfig
    guide_width: int = 0
    segments: bool = False

    @property
    def directions(self) -> str:
        """Of the loss, by what they cost: all views against all others are `joint`'s pairs."""
        return "joint" if self.objective.directions == "views" else self.objective.directions

    @property
    def itemsize(self) -> int:
        """Bytes of a number in the products."""
        return jnp.dtype(self.dtype).itemsize

    @property
    def num_keys(self) -> int:
        """Keys of the global batch."""
        return self.batch_size * (self.views - 1)

    @property
    def exchange(self) -> Exchange:
        """How devices see each other's keys: as was asked, or as the operator chooses."""
        if self.parts == 1:
            return "all_gather"
        return self.keys or choose_exchange(self.num_keys, self.width, self.dtype, self.guide_width)

    @property
    def own_examples(self) -> int:
        """Examples of a device."""
        return self.share * self.block

    @property
    def own_tokens(self) -> int:
        """Tokens that a device computes in a pass, padding included."""
        return self.share * self.rows * self.row_length

    @property
    def micro_tokens(self) -> int:
        """Tokens that a device computes at a time."""
        return self.micro * self.rows * self.row_length

    @property
    def several(self) -> bool:
        """Whether there is more than one micro-batch."""
        return self.micro < self.share

    @property
    def micro_batches(self) -> int:
        """How many."""
        return math.ceil(self.share / self.micro)

    @property
    def masked_rate(self) -> float:
        """Share of tokens that are masked and predicted; 0 without such a loss."""
        return 0.0 if self.objective.mlm is None else self.objective.mlm.rate

    @property
    def predicted_room(self) -> int:
        """Tokens of a block that there is room to predict; 0 without such a loss."""
        size = self.rows * self.row_length
        if self.objective.seq2seq is not None:
            return size // 2
        return room(size, self.masked_rate) if self.masked_rate else 0

    def with_blocks(self, share: int, micro: int) -> Layout:
        """With another batch and micro-batch."""
        size = share * self.block * self.parts
        return dataclasses.replace(self, share=share, micro=micro, batch_size=size)


def layout_of(program: Program) -> Layout:
    """The sizes of a step.

    Raises:
        UsageError: What the objective takes is not known: negatives are kept to groups, or there
            are none.
    """
    config, mesh, rows = program.config, program.mesh, program.rows
    objective = config.objective
    if not isinstance(objective, ContrastiveConfig):
        raise UsageError(f"objective.name {objective.name} is not planned for: only contrastive is")
    if objective.negative_group is not None:
        raise UsageError("objective.negative_group is for studies, and not planned for: remove it")
    parts = meshes.batch_parts(mesh)
    return Layout(
        shape=program.shapes.encoder,
        held=_held(program),
        dtype=config.model.dtype,
        width=program.shapes.model.embedding_size,
        devices=mesh.size,
        parts=parts,
        tensor=mesh.size // parts,
        fsdp=config.mesh.fsdp,
        by_layer=config.mesh.gather == "layer" and config.mesh.fsdp > 1,
        keys=config.mesh.keys,
        batch_size=config.data.batch_size,
        block=config.data.block,
        share=program.share,
        micro=program.micro,
        rows=rows.rows,
        row_length=config.data.row_length,
        views=rows.views,
        positives=rows.positives,
        mean_tokens=rows.tokens,
        remat=config.train.remat,
        objective=objective,
        guide_width=program.shapes.guide_width,
        segments=config.data.views == "paraphrases",
    )


def _held(program: Program) -> Held:
    state, mesh = program.state, program.mesh

    def size(leaf: jax.ShapeDtypeStruct, *, gathered: bool) -> int:
        count = meshes.part_size(leaf.shape, leaf.sharding.spec, mesh, gathered=gathered)
        return count * leaf.dtype.itemsize

    layers = rest = 0
    for path, leaf in jax.tree.leaves_with_path(state.params):
        if is_stacked(path):
            layers += size(leaf, gathered=True)
        else:
            rest += size(leaf, gathered=True)
    adapted, (weighed, reached) = _adapted(state.params["model"]), _reach(program)
    others = jax.tree.leaves((state.opt_state, state.step, state.average))
    return Held(
        parameters=sum(size(leaf, gathered=False) for leaf in jax.tree.leaves(state.params)),
        optimizer=sum(size(leaf, gathered=False) for leaf in others),
        layers=layers,
        rest=rest,
        trained=_trained_share(program),
        adapted=sum(
            size(leaf, gathered=True)
            for path, leaf in jax.tree.leaves_with_path(state.params["model"])
            if path in adapted
        ),
        weighed=weighed,
        reached=reached,
    )


def _adapted(model: Any) -> set[tuple[Any, ...]]:
    """Where the kernels are that have adapters."""
    adapters = jax.tree.leaves_with_path(model.get(lora.ADAPTERS, {}))
    return {(*path[:-1], jax.tree_util.DictKey("kernel")) for path, _ in adapters}


def _reach(program: Program) -> tuple[float, bool]:
    """Share of the layers' kernels that have gradients, and whether anything of the encoder has."""
    if program.update.mask is None:
        return 1.0, True
    model, mask = program.update.params["model"], program.update.mask["model"]
    adapted = _adapted(model)
    sizes = chosen = 0
    reached = bool(adapted)
    for (path, leaf), trained in zip(
        jax.tree.leaves_with_path(model), jax.tree.leaves(mask), strict=True
    ):
        if path[0].key != "encoder":
            continue
        reached = reached or bool(trained.any())
        if is_stacked(path) and path[-1].key == "kernel":
            sizes += leaf.size
            chosen += leaf.size if trained.any() or path in adapted else 0
    return chosen / sizes, reached


def _trained_share(program: Program) -> float:
    """Of the parameters, those in arrays that have gradients."""
    mask, params = program.update.mask, program.update.params
    if mask is None:
        return 1.0
    chosen = jax.tree.map(lambda m, leaf: leaf.size if m.any() else 0, mask, params)
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    return sum(jax.tree.leaves(chosen)) / sum(sizes)
