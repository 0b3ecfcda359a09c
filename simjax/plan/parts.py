"""The memory of a step, part by part, by formula.

What a step holds changes while it runs, and parts make way for each other: the encoder with the
activations of a micro-batch, the loss with its keys, and the update each have their own time. A
device needs what is always there, and the most of what comes and goes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from simjax.ops import strips, tiled
from simjax.ops.pallas_tpu import MOST_COLUMN_BYTES
from simjax.ops.reductions import BOUNDED_SCALE
from simjax.ops.sharded import bytes_held
from simjax.plan.layout import Layout, Platform

Phase: TypeAlias = Literal["encode", "loss", "update"]
PHASES: tuple[Phase, ...] = ("encode", "loss", "update")

_FLOAT = 4
_ON_CHIP = 128 * 2**20
"""Bytes of VMEM of a v5e or v6e, in which small arrays come and go."""


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
    phases: tuple[Phase, ...] = PHASES


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
        return max(PHASES, key=self.at)

    @property
    def total(self) -> int:
        """The most that is there at once."""
        return self.at(self.phase)


def memory(layout: Layout, platform: Platform) -> Memory:
    """What a device holds of a step that is compiled for a platform."""
    held = layout.held
    # Gradients are whole until they are reduced, but for layers that are gathered one by one.
    layers = held.layers // layout.fsdp if layout.by_layer else held.layers
    gradients = int(held.trained * (held.rest + layers))
    several = layout.several or layout.masked_rate > 0
    kept: tuple[Phase, ...] = ("encode",) if layout.several else ("encode", "loss")
    gathered, operands = _gathered(layout, platform)
    parts = [
        Part("parameters", held.parameters),
        Part("optimiser state", held.optimizer),
        Part("batch", _batch(layout)),
        Part("gathered parameters", gathered, ("encode", "loss")),
        Part("layers as operands", operands, ("encode", "loss")),
        # Adapters are merged into the kernels, whose gradients theirs are made of.
        Part("kernels with adapters", held.adapted, kept),
        Part("gradients of these", held.adapted, ("encode",)),
        Part("gradients", gradients, ("encode", "update")),
        # Those of a micro-batch are made beside the sum that they are added to.
        Part("gradients of a micro-batch", gradients if several else 0, ("encode",)),
        Part("activations of a micro-batch", activations(layout, platform), kept),
        Part("activations of masked tokens", _second_way(layout, platform), ("encode",)),
        Part("scratch of a layer", scratch(layout, platform), ("encode",)),
        Part("logits of predicted tokens", _logits(layout), ("encode",)),
        *_loss(layout, platform),
    ]
    return Memory(tuple(part for part in parts if part.bytes or part.name == "tiles"))


def _gathered(layout: Layout, platform: Platform) -> tuple[int, int]:
    """Bytes of gathered parameters, and of layers as products take them.

    A TPU's compiler rounds the kernels of all layers to bfloat16 once, in front of the loop and of
    the gather. Others keep each layer's beside what the backward pass is left, unless that
    computes the layer anew.
    """
    held = layout.held
    one = held.layers // layout.shape.stacked_layers
    kept = held.layers if layout.remat is None else 0
    operands = held.layers // 2 if platform == "tpu" else kept
    if layout.fsdp == 1:
        return 0, operands
    if layout.by_layer:
        # A layer that is gathered by itself stays for the backward pass, or is gathered again.
        return held.rest + one, operands if layout.remat is None else 0
    return held.rest if platform == "tpu" else held.whole, operands


def _second_way(layout: Layout, platform: Platform) -> int:
    """What the way of masked tokens through the encoder leaves beside that of the embeddings.

    Loops over micro-batches come one after the other. Without them compilers were seen to go both
    ways before they come back.
    """
    if layout.several or not layout.masked_rate:
        return 0
    return activations(layout, platform)


def _operand(layout: Layout, platform: Platform) -> int:
    """Bytes of a number that only products take: bfloat16 on a TPU, whatever the type is."""
    return 2 if platform == "tpu" else layout.itemsize


def activations(layout: Layout, platform: Platform) -> int:
    """What the backward pass of one micro-batch is left by the forward pass.

    For each token and layer of width H, inner width F, h heads and rows of L: 8 vectors of H (in
    front of `qkv`, three behind it, in front of `attention_output`, of the two norms, in front of
    `intermediate`), F before and F after the activation (5 F where it is gated), h L
    probabilities, all in the type of the products; and a byte of each element that hidden dropout
    falls on. On a TPU what products alone take is bfloat16. Layers that are computed anew leave
    their input alone, or the outputs of dense layers.
    """
    shape, size = layout.shape, layout.itemsize
    kept = shape.num_layers * layer_activations(layout, platform)
    if layout.remat is not None:
        residual = _FLOAT if shape.architecture.norm == "before" else size
        each = shape.hidden_size * residual
        if layout.remat == "products":
            split = 3 * shape.hidden_size + shape.kernels_in
            each += size * (2 * shape.hidden_size + split // layout.tensor)
        kept = shape.num_layers * layout.micro_tokens * each + layer_activations(layout, platform)
    # Embeddings of tokens, and hidden states in float32 for the pooling with their gradients.
    ends = layout.micro_tokens * shape.hidden_size * (size + 1 + 2 * _FLOAT)
    return kept + ends


def layer_activations(layout: Layout, platform: Platform) -> int:
    """Of one layer, as of `activations`."""
    shape, tensor = layout.shape, layout.tensor
    width, inner, own = shape.hidden_size, shape.intermediate_size, shape.architecture
    operands = 2 * width + (4 * width + inner) / tensor
    others = (
        2 * width + ((4 if own.gated else 1) * inner + shape.num_heads * keys_seen(layout)) / tensor
    )
    masks = 0
    for site, rate in own.dropped.items():
        if (shape.hidden_dropout if rate == "hidden" else shape.attention_dropout) > 0:
            masks += inner // tensor if site == "inner" else width
    a_token = _operand(layout, platform) * operands + layout.itemsize * others + masks + 2 * _FLOAT
    return int(layout.micro_tokens * a_token)


def keys_seen(layout: Layout) -> int:
    """Keys of the attention that each query has scores with at a time."""
    return layout.row_length if layout.row_length <= 1024 else 256


def scratch(layout: Layout, platform: Platform) -> int:
    """What the backward pass of one layer makes and forgets again, found by compiling.

    Of scores four stages of their gradients in float32 and two in the type of the products; of the
    feed-forward part, if that is more, four and one. On a TPU six of the larger in float32, less
    what stays on the chip.
    """
    shape, size = layout.shape, layout.itemsize
    scores, inner = shape.num_heads * keys_seen(layout), shape.kernels_in
    if platform == "tpu":
        made = layout.micro_tokens * 6 * _FLOAT * max(scores, inner) // layout.tensor
        return max(0, made - _ON_CHIP)
    a_token = max((4 * _FLOAT + 2 * size) * scores, (4 * _FLOAT + size) * inner)
    return layout.micro_tokens * a_token // layout.tensor


def _batch(layout: Layout) -> int:
    """Tokens with positions, texts and segments; texts' first tokens, ids, guide's vectors; labels.

    Places of blocks are as good as nothing.
    """
    texts = layout.own_examples * layout.views
    of_a_token, of_a_text = 4 if layout.segments else 3, 2 + layout.guide_width
    return _FLOAT * (of_a_token * layout.own_tokens + of_a_text * texts + layout.own_examples)


def _logits(layout: Layout) -> int:
    """Of the tokens that are predicted in a block, with their gradients and exponentials."""
    return 3 * _FLOAT * layout.predicted_room * layout.shape.vocab_size


def _loss(layout: Layout, platform: Platform) -> list[Part]:
    vectors = layout.own_examples * layout.views * layout.width * _FLOAT
    keys, sizes = layout.num_keys, (layout.width, layout.dtype, layout.parts, layout.guide_width)
    gathered = layout.exchange == "all_gather"
    return [
        # As they are, with their gradients; and as unit vectors with theirs.
        Part("embeddings", 2 * vectors),
        Part("unit vectors", 2 * vectors, ("loss",)),
        Part(
            "gathered keys and their gradients" if gathered else "keys on the ring",
            bytes_held(layout.exchange, keys, *sizes),
            ("loss",),
        ),
        Part("the guide's view of own texts", _guide(layout), ("loss",)),
        Part("tiles", _tiles(layout, platform), ("loss",)),
    ]


def _guide(layout: Layout) -> int:
    """A guide's vectors of this device's texts in float32 and as operands; keys bring their own."""
    return layout.guide_width * layout.own_examples * layout.views * (_FLOAT + layout.itemsize)


def _tiles(layout: Layout, platform: Platform) -> int:
    """Scores that are in memory at a time; a TPU's kernels have them on the chip.

    They serve as many keys as there is room for what is reduced of each, and loops the rest.
    """
    objective, anchors = layout.objective, layout.own_examples
    gathered = layout.exchange == "all_gather"
    keys = layout.num_keys if gathered else layout.num_keys // layout.parts
    largest = objective.max_scale if objective.learnable_temperature else 1 / objective.temperature
    bounded = largest <= BOUNDED_SCALE  # whose exponentials are held as operands
    of_a_key = 0 if layout.directions == "forward" else _FLOAT * (1 if bounded else 2)
    if platform == "tpu" and of_a_key * keys <= MOST_COLUMN_BYTES:
        return 0
    if layout.directions != "forward" or not gathered:
        rows, columns = tiled.tile_shape(anchors, keys, platform == "gpu")
        return 4 * rows * columns * _FLOAT
    rows, columns = strips.tile_shape(anchors, keys, platform == "gpu")
    strip = rows * math.ceil(keys / columns) * columns
    return strip * (layout.itemsize if bounded else _FLOAT) + 3 * rows * columns * _FLOAT
