"""False negatives by a frozen guide: keys that it finds closer to an anchor than its positive.

GISTEmbed (Solatorio 2024, arXiv 2402.16829, equation 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from simjax.objectives.config import GuideConfig
from simjax.ops import Guide

_TIE = 1e-6
"""Two float32 sums of one product, in different orders, differ by less."""


def view_by_view(x: Float[Array, "n V D"]) -> Float[Array, "N D"]:
    """The order of keys: the first view of all examples, then the second of all."""
    return x.swapaxes(0, 1).reshape(-1, x.shape[-1])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Guided:
    """What the guide makes of this device's examples.

    Attributes:
        anchors: Its unit vectors of the anchors.
        positives: Those of the positives.
        hard: Those of the hard negatives.
        limits: The largest cosine of a negative, for each pair of an anchor and its positive;
            infinite where there is no such pair.
    """

    anchors: Float[Array, "n G"]
    positives: Float[Array, "n P G"]
    hard: Float[Array, "n H G"]
    limits: Float[Array, "n P"]

    @classmethod
    def of(
        cls,
        vectors: Float[Array, "n V G"],
        has_positive: Bool[Array, "n P"],
        config: GuideConfig,
        dtype: DTypeLike,
    ) -> Guided:
        """Limits of a batch from its vectors.

        Args:
            vectors: Of anchor, positives and hard negatives of each example.
            has_positive: Which of the positives there are.
            config: How far below its positive's a negative's cosine must be.
            dtype: What the operator rounds the vectors to, which is done before the limits are
                taken: the tiles must not find a pair closer than itself.
        """
        vectors = jnp.asarray(vectors).astype(dtype).astype(jnp.float32)
        stop = 1 + has_positive.shape[1]
        anchors, positives, hard = vectors[:, 0], vectors[:, 1:stop], vectors[:, stop:]
        cosine = (anchors[:, None] * positives).sum(axis=-1)
        unit = jnp.abs(cosine) if config.margin_strategy == "relative" else 1.0
        limits = cosine - config.margin * unit
        return cls(anchors, positives, hard, jnp.where(has_positive, limits + _TIE, jnp.inf))

    @property
    def _anchor_limits(self) -> Float[Array, "n"]:
        """An anchor with several positives goes by the one that is least like it."""
        return self.limits.min(axis=1)

    @property
    def _keys(self) -> Float[Array, "N G"]:
        """Positives, then hard negatives, view by view."""
        return view_by_view(jnp.concatenate([self.positives, self.hard], axis=1))

    @property
    def _key_limits(self) -> Float[Array, "N"]:
        """No anchor is too close to a hard negative, which has no positive to be measured by."""
        hard = jnp.full_like(self.hard[..., 0], jnp.inf)
        return jnp.concatenate([self.limits, hard], axis=1).T.reshape(-1)

    @property
    def hard_negatives(self) -> Bool[Array, "n H"]:
        """Which of the examples' own hard negatives are negatives."""
        cosine = (self.anchors[:, None] * self.hard).sum(axis=-1)
        return cosine <= self._anchor_limits[:, None]

    @property
    def anchors_with_keys(self) -> Guide:
        """Of all anchors with all keys."""
        return Guide(self.anchors, self._keys, self._anchor_limits, self._key_limits)

    @property
    def anchors_with_anchors(self) -> Guide:
        """Of anchors with each other."""
        return Guide(self.anchors, self.anchors, self._anchor_limits, self._anchor_limits)

    @property
    def positives_with_keys(self) -> Guide:
        """Of positives with all keys, each positive going by its own pair."""
        positives = view_by_view(self.positives)
        return Guide(positives, self._keys, self.limits.T.reshape(-1), self._key_limits)
