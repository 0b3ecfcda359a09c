"""The memory of a step, part by part, by formula.

What a step holds changes while it runs, and parts make way for each other: the encoder's
activations of a micro-batch, the loss with its keys, and the update each have their own time. A
device needs what is always there and the most that is there at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from simjax import mesh as meshes
from simjax.models.config import EncoderConfig
from simjax.ops import strips, tiled
from simjax.ops.sharded import Exchange, bytes_held, choose_exchange
from simjax.plan.program import Program
from simjax.train.state import is_stacked

Platform = Literal["cpu", "gpu", "tpu"]
Phase = Literal["encode", "loss", "update"]

_FLOAT = 4


@dataclass(frozen=True)
class Part:
    """Something that a device holds.

    Attributes:
        name: What it is.
        bytes: Of one device.
        phases: When it is there.
    """

    name: str
    bytes: int
    phases: tuple[Phase, ...] = ("encode", "loss", "update")


@dataclass(frozen=True)
class Memory:
    """All parts of a step."""

    parts: tuple[Part, ...]

    def at(self, phase: Phase) -> int:
        """Bytes that are there at one time."""
        return sum(part.bytes for part in self.parts if phase in part.phases)

    @property
    def phase(self) -> Phase:
        """When the most is there."""
        phases: tuple[Phase, ...] = ("encode", "loss", "update")
        return max(phases, key=self.at)

    @property
    def total(self) -> int:
        """The most that is there at once."""
        return self.at(self.phase)


def exchange_of(program: Program) -> Exchange:
    """How devices see each other's keys: as the recipe says, or as the operator chooses."""
    config = program.config
    if meshes.batch_parts(program.mesh) == 1:
        return "all_gather"
    wanted = config.mesh.keys
    return wanted or choose_exchange(num_keys(program), width(program), config.model.dtype)


def num_keys(program: Program) -> int:
    """Keys of the global batch."""
    return program.config.data.batch_size * (program.rows.views - 1)


def width(program: Program) -> int:
    """Of the embeddings."""
    return program.shapes.model.embedding_size


def memory(program: Program, platform: Platform) -> Memory:
    """What a device holds of a step that is compiled for a platform."""
    state, mesh = program.state, program.mesh
    params = _held(state.params, mesh)
    layers, rest = _whole(program)
    by_layer = program.config.mesh.gather == "layer" and meshes.splits_params(mesh)
    gathered = 0
    if meshes.splits_params(mesh):
        gathered = rest + (layers // program.shapes.encoder.stacked_layers if by_layer else layers)
    trained = _trained_share(program)
    local = int(trained * (rest + (params if by_layer else layers)))
    parts = [
        Part("parameters", params),
        Part("optimiser state", _held((state.opt_state, state.average), mesh)),
        Part("batch", _batch(program)),
        Part("gathered parameters", gathered, ("encode", "loss")),
        Part("gradients", local, ("encode", "update")),
    ]
    several = program.micro < program.share
    if several or program.config.objective.mlm is not None:
        # Those of a micro-batch are made beside the sum that they are added to.
        parts.append(Part("gradients of a micro-batch", local, ("encode",)))
    kept: tuple[Phase, ...] = ("encode",) if several else ("encode", "loss")
    parts += [
        Part("activations of a micro-batch", activations(program), kept),
        Part("scratch of a layer", scratch(program, platform), ("encode",)),
    ]
    parts += _embeddings(program, platform)
    return Memory(tuple(parts))


def activations(program: Program) -> int:
    """What the backward pass of one micro-batch is left by the forward pass.

    For each token and layer of width H, inner width F, h heads and rows of L: 8 vectors of H (in
    front of `qkv`, three behind it, in front of `attention_output`, of the two norms, in front of
    `intermediate`), F before and F after the activation (5 F where it is gated), h L
    probabilities, all in the type of the products; and a byte of each element that hidden dropout
    falls on. Layers that are computed anew leave their input alone, or the outputs of dense layers.
    """
    shape, config = program.shapes.encoder, program.config
    remat, own = config.train.remat, shape.architecture
    size = jnp.dtype(config.model.dtype).itemsize
    tensor = program.mesh.size // meshes.batch_parts(program.mesh)
    tokens = _tokens(program)
    residual = _FLOAT if own.norm == "before" else size
    if remat is None:
        a_layer = _layer_bytes(program)
        kept = shape.num_layers * a_layer
    else:
        each = shape.hidden_size * residual
        if remat == "products":
            split = 3 * shape.hidden_size + shape.kernels_in
            each += size * (2 * shape.hidden_size + split // tensor)
        kept = shape.num_layers * tokens * each + _layer_bytes(program)
    # Embeddings, and hidden states in float32 for the pooling with their gradients.
    ends = tokens * shape.hidden_size * (size + 1 + 2 * _FLOAT)
    return int(kept + ends)


def _layer_bytes(program: Program) -> int:
    """Activations of one layer."""
    shape, config = program.shapes.encoder, program.config
    size = jnp.dtype(config.model.dtype).itemsize
    tensor = program.mesh.size // meshes.batch_parts(program.mesh)
    own, length = shape.architecture, config.data.row_length
    inner = 5 * shape.intermediate_size if own.gated else 2 * shape.intermediate_size
    narrow = 4 * shape.hidden_size + (4 * shape.hidden_size + inner) / tensor
    scores = shape.num_heads / tensor * length
    masks = 0
    for site, rate in own.dropped.items():
        if (shape.hidden_dropout if rate == "hidden" else shape.attention_dropout) > 0:
            masks += shape.intermediate_size if site == "inner" else shape.hidden_size
    return int(_tokens(program) * (size * (narrow + scores) + masks + 2 * _FLOAT))


def scratch(program: Program, platform: Platform) -> int:
    """What one layer's backward pass makes and forgets: scores, or the feed-forward part."""
    shape, config = program.shapes.encoder, program.config
    tensor = program.mesh.size // meshes.batch_parts(program.mesh)
    tokens = _tokens(program)
    size = jnp.dtype(config.model.dtype).itemsize
    scores = shape.num_heads // tensor * min(config.data.row_length, 1024)
    return int(tokens * max((4 * _FLOAT + 2 * size) * scores, 2 * _FLOAT * shape.kernels_in // tensor))


def _embeddings(program: Program, platform: Platform) -> list[Part]:
    config, views = program.config, program.rows.views
    own = program.share * config.data.block
    vector = width(program)
    exchange, devices = exchange_of(program), meshes.batch_parts(program.mesh)
    keys = num_keys(program)
    held = bytes_held(exchange, keys, vector, config.model.dtype, devices)
    vectors = own * views * vector * _FLOAT
    return [
        # As they are, with their gradients; unit vectors with theirs while there is a loss.
        Part("embeddings", 2 * vectors),
        Part("unit vectors", 2 * vectors, ("loss",)),
        Part("gathered keys and gradients" if exchange == "all_gather" else "keys on the ring",
             held, ("loss",)),
        Part("tiles", _tiles(program, platform, own, keys if exchange == "all_gather" else
                             keys // devices), ("loss",)),
    ]


def _tiles(program: Program, platform: Platform, anchors: int, keys: int) -> int:
    """Scores that are in memory at a time; TPU kernels have them on the chip."""
    if platform == "tpu":
        return 0
    objective, size = program.config.objective, jnp.dtype(program.config.model.dtype).itemsize
    if objective.directions == "forward" and exchange_of(program) == "all_gather":
        rows, columns = strips.tile_shape(anchors, keys)
        bounded = max(objective.max_scale if objective.learnable_temperature else 0,
                      1 / objective.temperature) <= 40
        across = math.ceil(keys / columns) * columns
        return rows * across * (size if bounded else _FLOAT) + 3 * rows * columns * _FLOAT
    rows, columns = tiled.tile_shape(anchors, keys)
    return 4 * rows * columns * _FLOAT


def _tokens(program: Program) -> int:
    """Computed at a time by a device."""
    return program.micro * program.rows.rows * program.config.data.row_length


def _batch(program: Program) -> int:
    return _held(program.batch, program.mesh, blocks=meshes.batch_parts(program.mesh))


def _held(tree: Any, mesh: meshes.AnyMesh, blocks: int = 1) -> int:
    """Bytes that a device has of arrays that lie as their shardings say."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        if blocks > 1:
            count = math.prod(leaf.shape) // blocks
        else:
            count = meshes.part_size(leaf.shape, leaf.sharding.spec, mesh, gathered=False)
        total += count * leaf.dtype.itemsize
    return total


def _whole(program: Program) -> tuple[int, int]:
    """Bytes of stacked layers, and of all else, that a device has once they are gathered."""
    layers = rest = 0
    for path, leaf in jax.tree.leaves_with_path(program.state.params):
        count = meshes.part_size(leaf.shape, leaf.sharding.spec, program.mesh, gathered=True)
        if is_stacked(path):
            layers += _FLOAT * count
        else:
            rest += _FLOAT * count
    return layers, rest


def _trained_share(program: Program) -> float:
    """Of the parameters, those that have gradients."""
    mask = program.update.mask
    if mask is None:
        return 1.0
    sizes = jax.tree.map(
        lambda m, leaf: (leaf.size if m.any() else 0, leaf.size), mask, program.update.params
    )
    pairs = jax.tree.leaves(sizes, is_leaf=lambda x: isinstance(x, tuple))
    return sum(a for a, _ in pairs) / sum(b for _, b in pairs)


def has_room(shape: EncoderConfig) -> bool:
    return True
