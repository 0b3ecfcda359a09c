"""Floating-point operations of a step: what the mathematics asks for, and what is computed.

XLA's own count takes the body of a loop once, however often it turns, and sees nothing inside of a
kernel, so these are counted from the formulas.
"""

from __future__ import annotations

from dataclasses import dataclass

from simjax.plan.layout import Layout, Platform
from simjax.train.throughput import (
    encoder_operations,
    head_operations,
    matmul_parameters,
    pair_operations,
)


@dataclass(frozen=True)
class Operations:
    """Of one step.

    Attributes:
        asked: By the mathematics, of real tokens, for all devices together: what MFU counts.
        encoder: Computed by a device in the encoder, with what is computed again and padding.
        pairs: Computed by a device for the scores and their gradients.
        head: Computed by a device for predicted tokens.
    """

    asked: float
    encoder: float
    pairs: float
    head: float = 0.0

    @property
    def computed(self) -> float:
        """By a device."""
        return self.encoder + self.pairs + self.head


def forward_passes(layout: Layout) -> float:
    """How often a step computes the encoder's layers forward.

    Once, once more to make the embeddings of all micro-batches first, and once more where each
    layer is computed anew. Where the outputs of dense layers are kept, attention alone is.
    """
    shape = layout.shape
    again = 0.0
    if layout.remat == "layer":
        again = 1.0
    elif layout.remat == "products":
        attention = 4 * shape.num_layers * layout.row_length * shape.hidden_size
        again = attention / (2 * matmul_parameters(shape) + attention)
    again *= layout.held.reached
    coupled = (2.0 if layout.several else 1.0) + again
    # Masked tokens take a second way through the encoder, whose micro-batches need no first pass.
    return coupled + (1.0 + again if layout.masked_rate else 0.0)


def backward_passes(layout: Layout) -> int:
    """How often it computes gradients: for each loss that is a way through the encoder."""
    if not layout.held.reached:
        return 0
    return 2 if layout.masked_rate else 1


def passes(layout: Layout) -> float:
    """Forward passes that all of that amounts to in products.

    Backward has each product twice, for the gradients of its two operands; kernels that are frozen
    have none.
    """
    dense = 2 * matmul_parameters(layout.shape)
    attention = 4 * layout.shape.num_layers * layout.row_length * layout.shape.hidden_size
    each = 2.0 - (1 - layout.held.weighed) * dense / (dense + attention)
    return forward_passes(layout) + each * backward_passes(layout)


def operations(layout: Layout, platform: Platform) -> Operations:
    """Of a step on each of the devices."""
    shape, width = layout.shape, layout.width
    forward = encoder_operations(shape, layout.own_tokens, layout.row_length, training=False)
    encoder = passes(layout) * forward / layout.tensor
    head = 0.0
    if layout.predicted_room:
        # Logits are made block by block, and anew in the backward pass; those that come with the
        # embeddings of several micro-batches, once more before.
        again = layout.several and not layout.masked_rate
        room = layout.predicted_room * layout.share
        a_token = shape.embedding_width * (shape.vocab_size + shape.hidden_size)
        head = (10.0 if again else 8.0) * room * a_token
    real = layout.batch_size * layout.views * layout.mean_tokens
    asked = encoder_operations(shape, real, layout.row_length)
    if layout.masked_rate:
        asked = 2.0 * asked + head_operations(
            *(shape.hidden_size, shape.embedding_width, shape.vocab_size),
            layout.masked_rate * real,
        )
    if layout.objective.seq2seq is not None:
        asked += head_operations(
            *(shape.hidden_size, shape.embedding_width, shape.vocab_size), real / 2
        )
    asked += pair_operations(layout.batch_size, layout.num_keys, width)
    return Operations(asked, encoder, _pairs(layout, platform), head)


def _pairs(layout: Layout, platform: Platform) -> float:
    """2 B N D for the scores, once or twice, and 4 B N D for their gradients.

    A guide of width G has scores of its own, 2 B N G whenever those are made.
    """
    own, keys, width = layout.own_examples, layout.num_keys, layout.width
    one_sweep = (
        layout.directions == "forward" and layout.exchange == "all_gather" and platform != "tpu"
    )
    sweeps = 1.0 if one_sweep else 2.0
    made = 2.0 * (width + layout.guide_width)
    each = own * keys * (sweeps * made + 4.0 * width)
    if layout.directions != "joint":
        return each
    # Anchors with anchors, and positives with all keys.
    more = own * layout.batch_size + own * layout.positives * keys
    return each + more * (2.0 * made + 4.0 * width)


def exact_passes(platform: Platform, dtype: str) -> float:
    """How many times slower scores in float32 are than the encoder's products in float32.

    The operator's float32 is exact: six bfloat16 passes on a TPU, and no TF32 on a GPU, where the
    vector units do an eighth of its work.
    """
    if dtype != "float32":
        return 1.0
    return {"tpu": 6.0, "gpu": 8.0, "cpu": 1.0}[platform]
