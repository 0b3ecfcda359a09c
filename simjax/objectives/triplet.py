"""Anchors closer to their positives than to their hard negatives by a margin."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from simjax.objectives.config import TripletConfig
from simjax.objectives.objective import Examples, Metrics, Unlearned, global_mean
from simjax.objectives.sides import unit
from simjax.types import NO_TEXT, Params

_EPSILON = 1e-6
"""PyTorch's pairwise_distance adds it to every difference, which keeps the root's slope finite."""


@dataclass(frozen=True)
class Triplet(Unlearned):
    """Mean of max(0, d(a, p) - d(a, n) + margin) over triplets.

    Reimers and Gurevych 2019 (arXiv 1908.10084), section 3; sentence-transformers' TripletLoss. An
    example with several hard negatives is as many triplets.

    Attributes:
        config: Distance and margin.
    """

    config: TripletConfig

    def loss(self, params: Params, examples: Examples) -> tuple[Float[Array, ""], Metrics]:
        """Over examples with a positive, and their hard negatives."""
        anchors = examples.vectors[:, :1]
        there = (examples.ids[:, 2:] != NO_TEXT) & (examples.ids[:, 1:2] != NO_TEXT)
        near = self._distance(anchors, examples.vectors[:, 1:2])
        far = self._distance(anchors, examples.vectors[:, 2:])
        values = jnp.maximum(near - far + self.config.margin, 0.0).reshape(-1)
        weights = there.astype(jnp.float32).reshape(-1)
        part, loss = global_mean(values, weights)
        _, right = global_mean((near < far).astype(jnp.float32).reshape(-1), weights)
        return part, {"loss": loss, "accuracy": right}

    def _distance(self, x: Float[Array, "n 1 D"], y: Float[Array, "n H D"]) -> Float[Array, "n H"]:
        x, y = x.astype(jnp.float32), y.astype(jnp.float32)
        if self.config.distance == "cosine":
            return 1 - (unit(x) * unit(y)).sum(-1)
        if self.config.distance == "manhattan":
            return jnp.abs(x - y + _EPSILON).sum(-1)
        return jnp.sqrt(((x - y + _EPSILON) ** 2).sum(-1))
