"""The pytrees that travel between the parts: packed blocks and batches.

Dimensions: ``K`` blocks, ``E`` examples of a block, ``V`` views of an example,
``T = E * V`` texts of a block, ``R`` rows of a block, ``L`` row length, ``D`` width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

Array: TypeAlias = jax.Array | np.ndarray
Params: TypeAlias = Any
"""A nested dict of arrays."""

Embeddings: TypeAlias = Float[Array, "B D"]

NO_TEXT = -1
"""In `Block.text`: padding. In `Batch.ids`: the example has no text for this view."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Block:
    """Short texts packed side by side into rows of one length.

    Leading dimensions (blocks) may stand before every array. Attention joins two positions of a
    row when their `text` is equal, so one array serves as attention mask and as pooling plan;
    where there are segments, these take some of it back.
    """

    tokens: Int[Array, "*K R L"]
    """Token ids; anything at padding."""
    positions: Int[Array, "*K R L"]
    """Place of the token in its own text, from 0."""
    text: Int[Array, "*K R L"]
    """Index of the text inside the block, `NO_TEXT` at padding."""
    first: Int[Array, "*K T"]
    """Flat index (row * L + column) of each text's first token; 0 for a text that is absent."""
    segment: Int[Array, "*K R L"] | None = None
    """0 in the first part of a text and at padding, 1 in its second part; None where no text has
    two. The first part is seen from everywhere in its text and sees itself alone; in the second
    each token sees those before it as well (UniLM, arXiv 1905.03197, sequence-to-sequence)."""
    goes_on: Bool[Array, "*K R L"] | None = None
    """Whether the token goes on the word of the token before it, where its id alone does not tell;
    None where words are not asked for, or ids tell."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """`K` blocks of `E` examples. Text `t` of a block is view `t % V` of example `t // V`.

    View 0 is the anchor, the next ones are positives, the rest are explicit hard negatives; how
    many of each is a property of the data set, not of the batch.
    """

    block: Block
    ids: Int[Array, "K E V"]
    """Dense id of each distinct normalised text, `NO_TEXT` where the view is absent."""
    labels: Int[Array, "K E"]
    """Class of the example, -1 where there is none."""
    place: Int[Array, "K"]
    """Place of each block in the global batch, which seeds its dropout."""
    scores: Float[Array, "K E"] | None = None
    """Score of the example, NaN where there is none; None where a data set has no scores."""
    guide: Float[Array, "K E V G"] | None = None
    """A guide's unit vectors of the texts, zero where a view is absent; None without a guide."""
