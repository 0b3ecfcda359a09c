"""Which pairs are negatives, and what the operator returns about them.

Dimensions: ``B`` anchors, ``N`` keys, ``P`` positives of an anchor.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

FalseNegatives: TypeAlias = Literal["none", "text", "label"]

ABSENT = -1
"""In `example`: a row that is padding or has no text. It pairs with nothing."""


NO_POSITIVE = -2
"""In `AnchorIds.positives`: none. Equal to no text and to no key's partner."""

NO_ANCHOR = -1
"""In `KeyIds.partners`: none, as of explicit hard negatives."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AnchorIds:
    """What is known of each anchor.

    Attributes:
        example: Number of the example in the global batch, `ABSENT` for padding.
        text: Id of its text.
        positives: Ids of its positives' texts, `NO_POSITIVE` where it has fewer.
        label: Its class, -1 if unknown.
    """

    example: Int[Array, "B"]
    text: Int[Array, "B"]
    positives: Int[Array, "B P"]
    label: Int[Array, "B"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KeyIds:
    """What is known of each key.

    Attributes:
        example: Number of the example it belongs to, `ABSENT` for padding.
        text: Id of its text.
        partners: Ids of the texts it is a positive of (one, unless anchors serve as keys),
            `NO_ANCHOR` where it has fewer.
        label: Its class, -1 if unknown.
    """

    example: Int[Array, "N"]
    text: Int[Array, "N"]
    partners: Int[Array, "N Q"]
    label: Int[Array, "N"]


@dataclass(frozen=True)
class Reductions:
    """What is reduced: the static choices that every implementation follows.

    Attributes:
        rule: Which keys are no negatives.
        columns: Whether the columns are reduced too.
        t: The t of the uniformity potential.
        max_scale: Upper bound of the scale.
        one_side: Anchors and keys are of one kind (anchors against anchors, keys against keys), so
            that texts with a common partner are no negatives of each other either.
    """

    rule: FalseNegatives
    columns: bool
    t: float
    max_scale: float
    one_side: bool = False


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PairStats:
    """Reductions over the negatives, all from one pass over the scores.

    Attributes:
        row: Log-sum-exp over each anchor's negatives, -inf without any.
        col: The same over the anchors, for each key; None unless asked for.
        row_max: Largest cosine among each anchor's negatives, -inf without any. No gradient.
        potential: Sum over pairs of distinct texts, positives' views only, of exp(-t |x - y|^2),
            a scalar without gradient; uniformity is the log of its mean.
        pairs: The number of pairs in `potential`.
    """

    row: Float[Array, "B"]
    col: Float[Array, "N"] | None
    row_max: Float[Array, "B"]
    potential: Float[Array, ""]
    pairs: Float[Array, ""]


def negatives(anchors: AnchorIds, keys: KeyIds, static: Reductions) -> Bool[Array, "B N"]:
    """Which keys are negatives of which anchors.

    A key of the anchor's own example never is: positives are not negatives, and own hard negatives
    are added outside of the tiles, with their weight. Beyond that, ``text`` excludes keys with the
    anchor's text or a positive's, and keys that are a positive of the anchor's text; ``label``
    excludes keys of the anchor's class.
    """
    mask = distinct(anchors, keys)
    if static.rule == "text":
        own, other = anchors.text[:, None], keys.text[None, :]
        positives = [p[:, None] for p in anchors.positives.T]
        partners = [q[None, :] for q in keys.partners.T]
        mask &= own != other
        for partner in partners:
            mask &= own != partner
        for positive in positives:
            mask &= positive != other
        if static.one_side:
            for positive, partner in itertools.product(positives, partners):
                mask &= positive != partner
    elif static.rule == "label":
        known = (anchors.label >= 0)[:, None]
        mask &= ~(known & (anchors.label[:, None] == keys.label[None, :]))
    return mask


def distinct(anchors: AnchorIds, keys: KeyIds) -> Bool[Array, "B N"]:
    """Pairs of two texts that are there, of different examples."""
    return (
        (anchors.example[:, None] != keys.example[None, :])
        & (anchors.example >= 0)[:, None]
        & (keys.example >= 0)[None, :]
    )


def spread_pairs(anchors: AnchorIds, keys: KeyIds) -> Bool[Array, "B N"]:
    """The pairs that uniformity is taken over: positives' views, never two equal texts."""
    return (
        distinct(anchors, keys)
        & (keys.partners[:, 0] >= 0)[None, :]
        & (anchors.text[:, None] != keys.text[None, :])
    )


def potential(cosines: Float[Array, "B N"], t: float) -> Float[Array, "B N"]:
    """exp(-t |x - y|^2) of unit vectors, from their cosines (Wang & Isola 2020)."""
    return jnp.exp(2 * t * (cosines - 1))
