"""Which pairs of an anchor and a key are negatives.

Dimensions: ``B`` anchors, ``N`` keys, ``P`` positives of an anchor, ``G`` width of a guide's
embeddings, ``R`` by ``C`` pairs of a tile.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import jax
from jaxtyping import Array, Bool, Float, Int

FalseNegatives: TypeAlias = Literal["none", "text", "label"]
Over: TypeAlias = Literal["none", "text", "label", "spread"]
"""What a reduction is over: negatives by a rule of `FalseNegatives`, or pairs for uniformity."""

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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Guide:
    """A frozen model's view of the pairs: GISTEmbed's false negatives (arXiv 2402.16829).

    A key is no negative of an anchor where the guide finds the two more alike than the anchor's
    limit allows; where columns are reduced, an anchor is none of a key beyond the key's limit. The
    guide's vectors are rounded as all operands are, so leave a margin for that in the limits.

    Attributes:
        anchors: The guide's unit vectors of the anchors.
        keys: Those of the keys.
        anchor_limits: Largest guide cosine of a negative, as a rule the anchor's with its positive.
        key_limits: The same for each key.
    """

    anchors: Float[Array, "B G"]
    keys: Float[Array, "N G"]
    anchor_limits: Float[Array, "B"]
    key_limits: Float[Array, "N"]


class Ids(NamedTuple):
    """Ids of one side, one vector for each fact; in a tile [R, 1] of anchors, [1, C] of keys.

    Attributes:
        example: As of `AnchorIds` and `KeyIds`.
        text: Likewise.
        others: An anchor's positives or a key's partners, the first of each, the second, ...
        label: As above.
    """

    example: Int[Array, "..."]
    text: Int[Array, "..."]
    others: tuple[Int[Array, "..."], ...]
    label: Int[Array, "..."]

    @classmethod
    def of(cls, ids: AnchorIds | KeyIds) -> Ids:
        """The facts of one side."""
        others = ids.positives if isinstance(ids, AnchorIds) else ids.partners
        return cls(ids.example, ids.text, tuple(others.T), ids.label)


def pairs_over(anchors: Ids, keys: Ids, over: Over, *, one_side: bool) -> Bool[Array, "R C"]:
    """Which pairs a reduction takes: `negatives` or `spread_pairs`."""
    if over == "spread":
        return spread_pairs(anchors, keys)
    return negatives(anchors, keys, over, one_side=one_side)


def negatives(
    anchors: Ids, keys: Ids, rule: FalseNegatives, *, one_side: bool
) -> Bool[Array, "R C"]:
    """Which keys are negatives of which anchors.

    A key of the anchor's own example never is: positives are not negatives, and own hard negatives
    are added outside of the tiles, with their weight. Beyond that, ``text`` excludes keys with the
    anchor's text or a positive's, and keys that are a positive of the anchor's text; ``label``
    excludes keys of the anchor's class. With ``one_side``, where anchors and keys are of one kind
    (anchors against anchors, keys against keys), ``text`` also excludes texts with a common
    partner.
    """
    mask = distinct(anchors, keys)
    if rule == "text":
        mask &= anchors.text != keys.text
        for partner in keys.others:
            mask &= anchors.text != partner
        for positive in anchors.others:
            mask &= positive != keys.text
        if one_side:
            for positive, partner in itertools.product(anchors.others, keys.others):
                mask &= positive != partner
    elif rule == "label":
        mask &= ~((anchors.label >= 0) & (anchors.label == keys.label))
    return mask


def distinct(anchors: Ids, keys: Ids) -> Bool[Array, "R C"]:
    """Pairs of two texts that are there, of different examples."""
    there = (anchors.example >= 0) & (keys.example >= 0)
    return there & (anchors.example != keys.example)


def spread_pairs(anchors: Ids, keys: Ids) -> Bool[Array, "R C"]:
    """The pairs that uniformity is taken over: positives' views, never two equal texts."""
    return distinct(anchors, keys) & (keys.others[0] >= 0) & (anchors.text != keys.text)
