"""A device's examples as the operator takes them: unit vectors of each side, and their ids."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from simjax.objectives.guide import Guided, view_by_view
from simjax.ops import AnchorIds, Guide, KeyIds
from simjax.ops.pairs import ABSENT, NO_ANCHOR, NO_POSITIVE
from simjax.types import NO_TEXT

_MARGIN = 1e-12
"""Below this squared length an embedding counts as absent and normalises to zero."""


def unit(x: Float[Array, "*K D"]) -> Float[Array, "*K D"]:
    """X / |x| in float32; zero, with zero gradient, where x is zero."""
    x = x.astype(jnp.float32)
    square = (x * x).sum(axis=-1, keepdims=True)
    # Asked this way round, a NaN stays one.
    return x * jnp.where(square <= _MARGIN, 0.0, jax.lax.rsqrt(jnp.maximum(square, _MARGIN)))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sides:
    """Unit vectors and identities of this device's anchors, positives and hard negatives."""

    anchors: Float[Array, "n D"]
    positives: Float[Array, "n P D"]
    hard: Float[Array, "n H D"]
    example: Int[Array, "n"]
    ids: Int[Array, "n V"]
    labels: Int[Array, "n"]
    guided: Guided | None = None

    @property
    def num_positives(self) -> int:
        """P."""
        return self.positives.shape[1]

    @property
    def has_positive(self) -> Bool[Array, "n P"]:
        """Which positives there are."""
        return self.ids[:, 1 : 1 + self.num_positives] != NO_TEXT

    @property
    def hard_ids(self) -> Int[Array, "n H"]:
        """Text ids of the hard negatives."""
        return self.ids[:, 1 + self.num_positives :]

    @property
    def positive_ids(self) -> Int[Array, "n P"]:
        """Text ids of the positives, as anchors hold them."""
        ids = self.ids[:, 1 : 1 + self.num_positives]
        return jnp.where(ids == NO_TEXT, NO_POSITIVE, ids)

    @property
    def anchor_ids(self) -> AnchorIds:
        """The anchors as anchors."""
        return AnchorIds(self.example, self.ids[:, 0], self.positive_ids, self.labels)

    @property
    def anchors_as_keys(self) -> KeyIds:
        """The anchors as keys, whose partners are their positives."""
        partners = jnp.where(self.has_positive, self.positive_ids, NO_ANCHOR)
        return KeyIds(self.example, self.ids[:, 0], partners, self.labels)

    @property
    def keys(self) -> Float[Array, "N D"]:
        """Positives, then hard negatives, view by view."""
        return view_by_view(jnp.concatenate([self.positives, self.hard], axis=1))

    @property
    def key_ids(self) -> KeyIds:
        """The keys, in the order of `keys`."""
        text = self.ids[:, 1:].T
        example = jnp.where(text == NO_TEXT, ABSENT, self.example)
        own = (jnp.arange(text.shape[0]) < self.num_positives)[:, None]
        partner = jnp.where(own, self.ids[:, 0], NO_ANCHOR).reshape(-1, 1)
        label = jnp.where(own, self.labels, -1)
        return KeyIds(example.reshape(-1), text.reshape(-1), partner, label.reshape(-1))

    @property
    def pairs(self) -> tuple[Array, Array, AnchorIds, KeyIds]:
        """All anchors and all keys, as the operator takes them."""
        return self.anchors, self.keys, self.anchor_ids, self.key_ids

    @property
    def guide(self) -> Guide | None:
        """What the guide makes of `pairs`, as the operator takes it."""
        return None if self.guided is None else self.guided.anchors_with_keys

    @property
    def positives_as_anchors(self) -> tuple[Float[Array, "M D"], AnchorIds]:
        """The positives as anchors, view by view."""
        text = self.positive_ids.T
        example = jnp.where(text == NO_POSITIVE, ABSENT, self.example)
        partner = jnp.broadcast_to(self.ids[:, 0], text.shape).reshape(-1, 1)
        label = jnp.broadcast_to(self.labels, text.shape)
        ids = AnchorIds(example.reshape(-1), text.reshape(-1), partner, label.reshape(-1))
        return view_by_view(self.positives), ids
