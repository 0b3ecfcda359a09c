"""From hidden states to one vector per text."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from simjax.types import NO_TEXT

Pooling = Literal["cls", "cls_mlp", "cls_linear", "mean", "first_last_mean"]
"""`cls`: the first token. `cls_mlp`: the same through dense and tanh (SimCSE). `cls_linear`:
through dense alone. `mean`: over the text's tokens. `first_last_mean`: the mean of the means over
the first and the last layer (SimCSE's avg_first_last)."""


def present(text: Int[Array, "P"], first: Int[Array, "T"]) -> Bool[Array, "T"]:
    """Which texts of a block are there: their first position carries their own number."""
    return text[first] == jnp.arange(first.shape[0], dtype=text.dtype)


def pool_first(
    hidden: Float[Array, "P D"], text: Int[Array, "P"], first: Int[Array, "T"]
) -> Float[Array, "T D"]:
    """Hidden state of each text's first token in float32; zeros for an absent text."""
    taken = hidden[first].astype(jnp.float32)
    return jnp.where(present(text, first)[:, None], taken, 0.0)


def pool_mean(
    hidden: Float[Array, "P D"], text: Int[Array, "P"], num_texts: int
) -> Float[Array, "T D"]:
    """Mean over each text's tokens, special ones included, in float32; zeros for an absent text."""
    bucket = jnp.where(text == NO_TEXT, num_texts, text)
    sums = jax.ops.segment_sum(hidden.astype(jnp.float32), bucket, num_texts + 1)[:num_texts]
    ones = jnp.ones(text.shape, jnp.float32)
    counts = jax.ops.segment_sum(ones, bucket, num_texts + 1)[:num_texts]
    return sums / jnp.maximum(counts, 1.0)[:, None]
