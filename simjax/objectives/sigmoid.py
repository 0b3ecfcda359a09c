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
from simjax.objectives.objective import Examples, Metrics
from simjax.objectives.sides import Sides, unit
from simjax.objectives.uniformity import Views, spread_reduction, uniformity
from simjax.ops import Exchange, Reduction, row_loss
from simjax.types import Params


@dataclass(frozen=True)
class Sigmoid:
    """- mean over anchors i of sum over keys j of log sigmoid(z_ij (t x_i . y_j + b)).

    z is 1 for a pair and -1 otherwise; keys whose text is the anchor's or its positive's, and are
    not its pair, are left out; hard negatives, one's own too, are keys. Zhai et al. 2023
    (arXiv 2303.15343), equation 1, with the global number of anchors as its size.

    Attributes:
        config: Where t and b start, and whether they are learned.
        views: How the texts of an example are used.
        dtype: What the operands of the score products are rounded to.
        exchange: How devices see each other's keys; None goes by their size.
    """

    config: SigmoidConfig
    views: Views
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
        sides = Sides.of(unit(examples.vectors), examples, self.views.positives)
        negatives = Reduction(
            scale,
            bias,
            kind="softplus",
            over=config.false_negatives,
            max_scale=config.max_scale if config.learnable else 1 / config.temperature,
        )
        there = sides.has_anchor.astype(jnp.float32)
        cosine = (sides.anchors[:, None] * sides.positives).sum(-1)
        own = jax.nn.softplus(-(scale * cosine + bias))
        own = jnp.where(sides.has_positive, own, 0.0).sum(axis=1)
        own_hard = (sides.anchors[:, None] * sides.hard).sum(-1)
        is_hard = sides.hard_negatives(config.false_negatives)
        hard = jax.nn.softplus(scale * own_hard + bias)
        hard = jnp.where(is_hard, hard, 0.0).sum(axis=1)
        total, stats = row_loss(
            _anchor_losses,
            (own + hard, there),
            *sides.pairs,
            [negatives, spread_reduction(config.uniformity_t)],
            dtype=self.dtype,
            exchange=self.exchange,
        )
        part = total / jnp.maximum(global_sum(there.sum()), 1.0)
        metrics = {"loss": global_sum(jax.lax.stop_gradient(part))}
        hardest = jnp.where(is_hard, own_hard, -jnp.inf).max(axis=1, initial=-jnp.inf)
        metrics |= _measures(sides, cosine, jnp.maximum(stats.row_max, hardest))
        return part, metrics | uniformity(sides, stats, self.views, config.uniformity_t)


def _anchor_losses(
    reduced: tuple[Float[Array, "n"], ...], own: tuple[Float[Array, "n"], Float[Array, "n"]]
) -> Float[Array, "n"]:
    """From the sums over other keys, those over an anchor's own, and whether there is an anchor."""
    return jnp.where(own[1] > 0, own[0] + reduced[0], 0.0)


def _measures(sides: Sides, cosine: Float[Array, "n P"], hardest: Float[Array, "n"]) -> Metrics:
    """Alignment of all pairs; share of those with a negative that no negative is nearer than."""
    cosine, hardest = jax.lax.stop_gradient((cosine, hardest))
    pairs = sides.has_positive.astype(jnp.float32)
    contrasted = jnp.where((hardest > -jnp.inf)[:, None], pairs, 0.0)
    nearest = jnp.where(cosine > hardest[:, None], contrasted, 0.0)
    sums = ((pairs * (2 - 2 * cosine)).sum(), pairs.sum(), nearest.sum(), contrasted.sum())
    total = global_sum(sums)
    return {
        "alignment": total[0] / jnp.maximum(total[1], 1.0),
        "accuracy": total[2] / jnp.maximum(total[3], 1.0),
    }
