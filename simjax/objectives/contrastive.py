"""The contrastive objective of one global batch, around the pair operator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from simjax.mesh import global_sum
from simjax.objectives import losses
from simjax.objectives.config import ContrastiveConfig
from simjax.objectives.groups import over_groups
from simjax.objectives.guide import Guided
from simjax.objectives.objective import Examples, Metrics
from simjax.objectives.sides import Sides, unit
from simjax.objectives.uniformity import Views, spread_reduction, uniformity
from simjax.ops import Exchange, PairStats, Reduction, reduce_pairs, row_loss
from simjax.types import NO_TEXT, Params


class _Options(TypedDict):
    """What every call of the operator is told."""

    dtype: DTypeLike
    exchange: Exchange | None


@dataclass(frozen=True)
class Contrastive:
    """`contrastive_loss` as an objective, with its temperature fixed or learned.

    Attributes:
        config: The loss.
        views: How the texts of an example are used.
        dtype: What the operands of the score products are rounded to.
        exchange: How devices see each other's keys; None goes by their size.
    """

    config: ContrastiveConfig
    views: Views
    dtype: DTypeLike = jnp.float32
    exchange: Exchange | None = None

    passes = 1
    towers = 1

    def init(self, width: int, key: Key[Array, ""]) -> Params:
        """The logarithm of 1 / temperature, where it is learned."""
        if not self.config.learnable_temperature:
            return {}
        return {"log_scale": jnp.float32(-math.log(self.config.temperature))}

    def scale(self, params: Params) -> Float[Array, ""]:
        """1 / temperature."""
        if not self.config.learnable_temperature:
            return jnp.float32(1 / self.config.temperature)
        return jnp.exp(params["log_scale"])

    def constrain(self, params: Params) -> Params:
        """A learned scale is held at `max_scale`.

        The parameter itself is clamped, as CLIP's is (arXiv 2103.00020, section 2.5): clamping
        its use would leave it without a gradient once it is beyond the bound.
        """
        if not self.config.learnable_temperature:
            return params
        return {"log_scale": jnp.minimum(params["log_scale"], math.log(self.config.max_scale))}

    def figures(self, params: Params) -> Metrics:
        """The scale."""
        return {"scale": self.scale(params)}

    def loss(self, params: Params, examples: Examples) -> tuple[Float[Array, ""], Metrics]:
        """As of `contrastive_loss`."""
        return contrastive_loss(
            examples.vectors,
            examples.ids,
            examples.labels,
            examples.number,
            self.scale(params),
            self.config,
            self.views,
            guide=examples.frozen,
            dtype=self.dtype,
            exchange=self.exchange,
        )


def contrastive_loss(
    embeddings: Float[Array, "n V D"],
    ids: Int[Array, "n V"],
    labels: Int[Array, "n"],
    example: Int[Array, "n"],
    scale: Float[Array, ""] | float,
    config: ContrastiveConfig,
    views: Views,
    *,
    guide: Float[Array, "n V G"] | None = None,
    dtype: DTypeLike = jnp.float32,
    exchange: Exchange | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """The objective over the global batch, of which the arguments are this device's examples.

    For anchor i and each of its positives p, v_ip = logsumexp over negatives (s_ij - s_ip); the
    loss is the mean over anchors of the mean over their positives of a function of v (`losses`).

    Args:
        embeddings: View 0 is the anchor, then positives, then hard negatives; any length.
        ids: Dense text ids, `NO_TEXT` where an example lacks a view.
        labels: Classes, -1 if unknown.
        example: Number of each example in the global batch.
        scale: 1 / temperature.
        config: The objective.
        views: How the views are used.
        guide: The guide's unit vectors of the texts, where `config` has a guide.
        dtype: What the operands of the score products are rounded to.
        exchange: How devices see each other's keys; None goes by their size.

    Returns:
        This device's part of the loss, to be differentiated as it is (the sum of the parts over
        devices is the loss, and gathered keys carry the gradients across); and metrics of the
        global batch, the whole loss among them.
    """
    vectors = unit(embeddings)
    guided = None
    if config.guide is not None:
        assert guide is not None  # of the same batch
        has_positive = ids[:, 1 : 1 + views.positives] != NO_TEXT
        guided = Guided.of(guide, has_positive, config.guide, dtype)
    examples = Examples(embeddings, ids, labels, None, example, guide)
    sides = Sides.of(vectors, examples, views.positives, guided)
    scale = jnp.asarray(scale, jnp.float32)
    cosine = _cosines(sides.anchors, sides.positives)
    hard_lse, hard_max = _own_hard_negatives(sides, scale, config)
    group = config.negative_group
    options: _Options = {"dtype": dtype, "exchange": exchange if group is None else "local"}
    scores = Reduction(
        scale,
        over=config.false_negatives,
        max_scale=config.max_scale if config.learnable_temperature else 1 / config.temperature,
        columns=config.directions != "forward",
        guided=guided is not None,
    )
    reductions = [scores, spread_reduction(config.uniformity_t)]
    if config.directions == "forward":
        rows = _Rows(scale * cosine, hard_lse, sides.has_positive.astype(jnp.float32))
        value = partial(_row_values, config.loss)

        def rows_of(part: Sides, rows: _Rows) -> tuple[Float[Array, ""], PairStats]:
            return row_loss(value, rows, *part.pairs, reductions, guide=part.guide, **options)

        total, stats = over_groups(rows_of, group, sides, rows)
        terms = [rows.term(stats.rows[0])]
        loss = total / terms[0].global_weight(config.loss)
    else:

        def both_of(part: Sides) -> PairStats:
            return reduce_pairs(*part.pairs, reductions, guide=part.guide, **options)

        stats = over_groups(both_of, group, sides)
        forward = _merge(stats.rows[0], hard_lse)[:, None]
        assert stats.cols[0] is not None  # asked for
        backward = _by_positive(stats.cols[0], sides)
        if config.directions == "symmetric":
            lse = [forward, backward]
        else:
            rows_alone = replace(scores, columns=False)
            one_side = partial(reduce_pairs, reductions=[rows_alone], one_side=True, **options)
            anchors, keys = over_groups(partial(_within_sides, one_side), group, sides)
            anchors, keys = anchors[:, None], _by_positive(keys, sides)
            if config.directions == "views":
                lse = [_merge(forward, anchors), _merge(backward, keys)]
            else:
                lse = [_merge(forward, backward, anchors, keys)]
        joint = config.directions == "joint"
        terms = [_Term(x - scale * cosine, sides.has_positive, joint=joint) for x in lse]
        parts = [term.values(config.loss).sum() / term.global_weight(config.loss) for term in terms]
        loss = sum(parts[1:], parts[0]) / len(parts)
    hardest = jnp.maximum(stats.row_max, hard_max)
    metrics = {"loss": global_sum(jax.lax.stop_gradient(loss))}
    metrics |= _metrics(terms[0], cosine, hardest)
    metrics |= uniformity(sides, stats, views, config.uniformity_t)
    return loss, metrics


@dataclass(frozen=True)
class _Term:
    """One direction of the loss: log-odds of each anchor and positive, and which are real."""

    v: Float[Array, "n P"]
    has_positive: Bool[Array, "n P"]
    joint: bool = False

    @property
    def has_negative(self) -> Bool[Array, "n P"]:
        return self.v != -jnp.inf

    def weights(self, *, need_negative: bool) -> Float[Array, "n P"]:
        """Each anchor weighs 1, shared by its positives."""
        real = self.has_positive & self.has_negative if need_negative else self.has_positive
        share = real.astype(jnp.float32)
        return share / jnp.maximum(share.sum(axis=1, keepdims=True), 1.0)

    def values(self, loss: str) -> Float[Array, "n"]:
        """The loss of each anchor, times its weight.

        A row without negatives has InfoNCE's limit, 0, and counts; for DCL and FlatNCE, whose
        limit is -inf, it does not.
        """
        # The inner `where` keeps -inf out of the functions, whose gradients there are NaN.
        v = jnp.where(self.has_negative, self.v, 0.0)
        if loss == "infonce":
            value = losses.joint_infonce(v) if self.joint else losses.infonce(v)
            limit = math.log(2) if self.joint else 0.0
        else:
            value = losses.dcl(v) if loss == "dcl" else losses.flatnce(v)
            limit = 0.0
        value = jnp.where(self.has_negative, value, limit)
        return (value * self.weights(need_negative=loss != "infonce")).sum(axis=1)

    def global_weight(self, loss: str) -> Float[Array, ""]:
        """What the sum of all devices' values is divided by."""
        weights = self.weights(need_negative=loss != "infonce")
        return jnp.maximum(global_sum(weights.sum()), 1.0)


class _Rows(NamedTuple):
    """What the loss of one direction needs of an anchor beside the log-sum-exp of its row."""

    positive: Float[Array, "n P"]
    hard_lse: Float[Array, "n"]
    has_positive: Float[Array, "n P"]

    def term(self, lse: Float[Array, "n"]) -> _Term:
        v = _merge(lse, self.hard_lse)[:, None] - self.positive
        return _Term(v, self.has_positive > 0)


def _row_values(
    loss: str, reduced: tuple[Float[Array, "n"], ...], rows: _Rows
) -> Float[Array, "n"]:
    return rows.term(reduced[0]).values(loss)


def _cosines(x: Float[Array, "n D"], y: Float[Array, "n k D"]) -> Float[Array, "n k"]:
    """Of each row with its own others, in float32 whatever the products' precision."""
    # One by one: reduced together, XLA copies both operands on a CPU.
    return jnp.stack([(x * y[:, k]).sum(-1) for k in range(y.shape[1])], axis=1)


def _own_hard_negatives(
    sides: Sides, scale: Float[Array, ""], config: ContrastiveConfig
) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """Log-sum-exp of an anchor's own hard negatives with their weight, and their largest cosine.

    The weight is SimCSE's: log alpha is added to the score (arXiv 2104.08821, equation 8).
    """
    if sides.hard.shape[1] == 0:
        nothing = jnp.full_like(sides.anchors[:, 0], -jnp.inf)
        return nothing, nothing
    real = sides.hard_negatives(config.false_negatives)
    cosine = _cosines(sides.anchors, sides.hard)
    logits = scale * cosine + math.log(config.hard_negative_weight)
    return (
        _lse(jnp.where(real, logits, -jnp.inf)),
        jnp.where(real, cosine, -jnp.inf).max(axis=1),
    )


def _lse(logits: Float[Array, "*n k"]) -> Float[Array, "*n"]:
    """Log-sum-exp over the last axis, -inf with zero gradient where all of it is -inf."""
    top = jax.lax.stop_gradient(logits.max(axis=-1))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    total = jnp.exp(logits - top[..., None]).sum(axis=-1)
    some = total != 0
    return jnp.where(some, jnp.log(jnp.where(some, total, 1.0)) + top, -jnp.inf)


def _merge(*lse: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The log-sum-exp of parts."""
    return _lse(jnp.stack(jnp.broadcast_arrays(*lse), axis=-1))


def _by_positive(x: Float[Array, "N"], sides: Sides) -> Float[Array, "n P"]:
    """Of key statistics, those of the positives."""
    n, p = sides.positives.shape[:2]
    return x[: n * p].reshape(p, n).T


def _within_sides(
    lse: Callable[..., PairStats], sides: Sides
) -> tuple[Float[Array, "n"], Float[Array, "N"]]:
    """Log-sum-exps of anchor-anchor negatives, and of key-key negatives of each positive."""
    guided = sides.guided
    anchors = lse(
        *(sides.anchors, sides.anchors, sides.anchor_ids, sides.anchors_as_keys),
        guide=guided.anchors_with_anchors if guided is not None else None,
    )
    positives, positive_ids = sides.positives_as_anchors
    keys = lse(
        *(positives, sides.keys, positive_ids, sides.key_ids),
        guide=guided.positives_with_keys if guided is not None else None,
    )
    return anchors.rows[0], keys.rows[0]


def _metrics(term: _Term, cosine: Float[Array, "n P"], hardest: Float[Array, "n"]) -> Metrics:
    """Means over the global batch, without gradient."""
    weights = term.weights(need_negative=False)
    active = term.weights(need_negative=True)
    sums = {
        "alignment": (weights * (2 - 2 * cosine)).sum(),
        "accuracy": jnp.where(cosine > hardest[:, None], active, 0.0).sum(),
        "mean_v": (active * jnp.where(term.has_negative, term.v, 0.0)).sum(),
        "anchors": weights.sum(),
        "active": active.sum(),
    }
    total = global_sum(jax.lax.stop_gradient(sums))
    return {
        "alignment": total["alignment"] / jnp.maximum(total["anchors"], 1.0),
        "accuracy": total["accuracy"] / jnp.maximum(total["active"], 1.0),
        "mean_v": total["mean_v"] / jnp.maximum(total["active"], 1.0),
        "without_negatives": total["anchors"] - total["active"],
    }
