"""From hidden states to one vector per text."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from simjax.types import NO_TEXT

Pooling = Literal[
    "cls",
    "cls_mlp",
    "cls_linear",
    "mean",
    "mean_sqrt_length",
    "first_last_mean",
    "top2_mean",
    "weighted_mean",
    "max",
    "last_token",
]
"""`cls`: the first token. `cls_mlp`: the same through dense and tanh (SimCSE). `cls_linear`:
through dense alone. `mean`: over the text's tokens; `mean_sqrt_length`: their sum over the root of
their number. `first_last_mean`, `top2_mean`: the mean of the means over two layers, the first and
the last, or the last two (SimCSE's avg_first_last and avg_top2). `weighted_mean`: the n-th token
has weight n (Muennighoff, arXiv 2202.08904). `max`: the largest of each feature. `last_token`: the
last one, special tokens included."""

TWO_LAYERS: tuple[Pooling, ...] = ("first_last_mean", "top2_mean")


def present(text: Int[Array, "P"], first: Int[Array, "T"]) -> Bool[Array, "T"]:
    """Which texts of a block are there: their first position carries their own number."""
    return text[first] == jnp.arange(first.shape[0], dtype=text.dtype)


def pool(
    pooling: Pooling,
    hidden: Float[Array, "P D"],
    text: Int[Array, "P"],
    first: Int[Array, "T"],
) -> Float[Array, "T D"]:
    """One vector per text; zeros for an absent text.

    Args:
        pooling: How; dense layers and the choice of layers are the caller's.
        hidden: float32 states of a block's positions.
        text: Number of each position's text, `NO_TEXT` at padding.
        first: First position of each text.
    """
    there, num_texts = present(text, first), first.shape[0]
    bucket = jnp.where(text == NO_TEXT, num_texts, text)

    def sums(values: Float[Array, "P *D"]) -> Float[Array, "T *D"]:
        return jax.ops.segment_sum(values, bucket, num_texts + 1)[:num_texts]

    ones = jnp.ones(text.shape, hidden.dtype)
    if pooling.startswith("cls"):
        pooled = hidden[first]
    elif pooling == "max":
        pooled = jax.ops.segment_max(hidden, bucket, num_texts + 1)[:num_texts]
    elif pooling == "last_token":
        length = sums(jnp.ones(text.shape, first.dtype))
        pooled = hidden[jnp.maximum(first + length - 1, 0)]
    elif pooling == "weighted_mean":
        places = jnp.arange(text.shape[0], dtype=first.dtype)
        # Padding has no text; whatever its weight, it falls into a bucket of its own.
        weights = (places - first[jnp.maximum(text, 0)] + 1).astype(hidden.dtype)
        pooled = sums(weights[:, None] * hidden) / jnp.maximum(sums(weights), 1.0)[:, None]
    elif pooling == "mean_sqrt_length":
        pooled = sums(hidden) / jnp.sqrt(jnp.maximum(sums(ones), 1.0))[:, None]
    else:
        pooled = sums(hidden) / jnp.maximum(sums(ones), 1.0)[:, None]
    return jnp.where(there[:, None], pooled, 0.0)
