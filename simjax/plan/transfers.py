"""What a step sends between devices and moves to and from memory, by formula."""

from __future__ import annotations

import jax.numpy as jnp

from simjax.ops.sharded import bytes_sent
from simjax.plan.layout import Layout, Platform
from simjax.plan.operations import backward_passes, forward_passes, passes
from simjax.plan.parts import activations, keys_seen

_FLOAT = 4
_ROWS = 512
"""Anchors of a tile, for each of which all keys are read once more."""


def sent(layout: Layout, platform: Platform) -> dict[str, float]:
    """Bytes that each device sends in a step, by what they are.

    Among n devices a gather and a reduction to parts of S bytes send (n - 1) / n S each, a
    reduction to all twice that. Gradients are float32; layers come to a TPU as its products take
    them, in bfloat16, unless they are gathered one by one.
    """
    held, fsdp, data = layout.held, layout.fsdp, layout.parts // layout.fsdp
    share = (fsdp - 1) / fsdp
    gradients = held.whole * held.trained
    found = {
        "gradients": share * gradients + 2 * (data - 1) / data * gradients / fsdp,
        "parameters": share * (held.rest + held.layers / (2 if platform == "tpu" else 1)),
        "keys": _keys(layout),
        "layers over mesh.tensor": _tensor(layout),
    }
    if layout.by_layer:
        # Layers come once for each pass forward, and stay for the one backward unless that
        # computes them anew; their gradients go once for each pass backward of a micro-batch.
        turns, losses = layout.micro_batches, backward_passes(layout)
        forwards = losses * (1 + (layout.remat is not None)) + layout.several
        found["parameters"] = share * (held.rest + held.layers * turns * forwards)
        found["gradients"] += share * held.layers * held.trained * (turns * losses - 1)
    return {name: size for name, size in found.items() if size}


def sent_round(layout: Layout, platform: Platform) -> float:
    """Of what is `sent`, bytes that go round a ring of devices, from each to the one after it.

    All that goes with keys on the ring; of gathered ones on a TPU the gradients, (n - 1) / n N D
    floats (`simjax.ops.sharded.scatter`).
    """
    if layout.exchange == "ring":
        return _keys(layout)
    if layout.exchange == "local" or platform != "tpu":
        return 0.0
    vectors = layout.num_keys * layout.width * _exchanges(layout)
    return (layout.parts - 1) / layout.parts * vectors * _FLOAT


def _keys(layout: Layout) -> float:
    if layout.parts == 1:
        return 0.0
    once = bytes_sent(
        *(layout.exchange, layout.num_keys, layout.width, jnp.dtype(layout.dtype)),
        *(layout.parts, layout.guide_width),
    )
    total = once * _exchanges(layout)
    if layout.directions == "joint" and layout.exchange == "all_gather":
        # Keys are gathered once for both that meet them.
        width = layout.width + layout.guide_width
        gathered = layout.num_keys * width * layout.itemsize
        total -= (layout.parts - 1) / layout.parts * gathered
    return total


def _exchanges(layout: Layout) -> float:
    """How often as many vectors as there are keys meet those of other devices.

    Of joint directions anchors are keys once more, and positives meet all keys.
    """
    return 2 + 1 / max(1, layout.views - 1) if layout.directions == "joint" else 1


def _tensor(layout: Layout) -> float:
    """Two sums of hidden states in float32 for each layer and pass, forward and backward."""
    n = layout.tensor
    states = layout.own_tokens * layout.shape.hidden_size * _FLOAT
    turns = forward_passes(layout) + backward_passes(layout)
    return 2 * (n - 1) / n * states * 2 * layout.shape.num_layers * turns


def moved(layout: Layout, platform: Platform) -> float:
    """Bytes that a device moves to and from its memory in a step, about.

    Parameters are read for each pass of a micro-batch and gradients added to; what a pass keeps of
    activations is written and read again, as are scores and inner features in float32; the update
    reads and writes the state and reads the gradients twice; of the loss, keys and their gradients
    go by once for each tile of anchors.
    """
    held, turns, shape = layout.held, layout.micro_batches, layout.shape
    gradients = held.whole * held.trained
    weights = turns * (passes(layout) * held.whole + (3 if layout.several else 1) * gradients)
    passing = _FLOAT * (shape.num_heads * keys_seen(layout) + shape.kernels_in) / layout.tensor
    each = activations(layout, platform) + shape.num_layers * layout.micro_tokens * passing
    encoder = turns * 2 * each * (forward_passes(layout) + backward_passes(layout))
    update = 2 * (held.parameters + held.optimizer) + 3 * gradients / layout.fsdp
    tiles = max(1, layout.own_examples / _ROWS)
    loss = tiles * layout.num_keys * layout.width * (2 * layout.itemsize + 2 * _FLOAT)
    return weights + encoder + update + loss
