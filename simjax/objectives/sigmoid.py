"""Pairs one by one: SigLIP's sigmoid loss, from the same tiles as the softmax family's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from simjax.mesh import global_sum
from simjax.objectives.config import SigmoidConfig
from simjax.objectives.objective import Examples, Metrics, global_mean
from simjax.objectives.sides import Sides, unit
from simjax.ops import Exchange, Reduction, reduce_pairs
from simjax.types import Params


@dataclass(frozen=True)
class Sigmoid:
    """- mean over anchors i of sum over keys j of log sigmoid(z_ij (t x_i . y_j + b)).

    z is 1 for a pair and -1 otherwise; keys whose text is the anchor's or its positive's, and are
    not its pair, are left out; hard negatives, one's own too, are keys. Zhai et al. 2023
    (arXiv 2303.15343), equation 1, with the global number of anchors as its size.

    Attributes:
        config: Where t and b start, and whether they are learned.
        positives: Positives of an example; further views are hard negatives.
        dtype: What the operands of the score products are rounded to.
        exchange: How devices see each other's keys; None goes by their size.
    """

    config: SigmoidConfig
    positives: int
    dtype: DTypeLike = jnp.float32
    exchange: Exchange | None = None

    passes = 1
    towers = 1

    def init(self, width: int, key: Key[Array, ""]) -> Params:
        """The logarithm of t, and b."""
        if not self.config.learnable:
            return {}
        scale, bias = -math.log(self.config.temperature), self.config.bias
        return {"log_scale": jnp.float32(scale), "score_bias": jnp.float32(bias)}

    def constrain(self, params: Params) -> Params:
        """A learned t is held at `max_scale`, as CLIP's is (arXiv 2103.00020, section 2.5)."""
        if not self.config.learnable:
            return params
        top = math.log(self.config.max_scale)
        return params | {"log_scale": jnp.minimum(params["log_scale"], top)}

    def figures(self, params: Params) -> Metrics:
        """Both, t by the name that it has elsewhere."""
        scale, bias = self._scores(params)
        return {"scale": scale, "bias": bias}

    def _scores(self, params: Params) -> tuple[Float[Array, ""], Float[Array, ""]]:
        if not self.config.learnable:
            return jnp.float32(1 / self.config.temperature), jnp.float32(self.config.bias)
        return jnp.exp(params["log_scale"]), params["score_bias"]

    def loss(self, params: Params, examples: Examples) -> tuple[Float[Array, ""], Metrics]:
        """Over all pairs of the global batch."""
        config = self.config
        scale, bias = self._scores(params)
        sides = Sides.of(unit(examples.vectors), examples, self.positives)
        negatives = Reduction(
            scale,
            bias,
            kind="softplus",
            over=config.false_negatives,
            max_scale=config.max_scale if config.learnable else 1 / config.temperature,
        )
        stats = reduce_pairs(*sides.pairs, [negatives], dtype=self.dtype, exchange=self.exchange)
        others, there = stats.rows[0], sides.has_anchor.astype(jnp.float32)
        cosine = (sides.anchors[:, None] * sides.positives).sum(-1)
        own = jax.nn.softplus(-(scale * cosine + bias))
        own = jnp.where(sides.has_positive, own, 0.0).sum(axis=1)
        hard = jax.nn.softplus(scale * (sides.anchors[:, None] * sides.hard).sum(-1) + bias)
        hard = jnp.where(sides.hard_negatives(config.false_negatives), hard, 0.0).sum(axis=1)
        part, loss = global_mean(own + hard + others, there)
        shown = jax.lax.stop_gradient(cosine)
        weights = sides.has_positive.astype(jnp.float32)
        sums = global_sum(((weights * (2 - 2 * shown)).sum(), weights.sum()))
        return part, {"loss": loss, "alignment": sums[0] / jnp.maximum(sums[1], 1.0)}
