"""The same losses on the pair operator, which never holds the matrix of scores.

Everything that this study asks of `simjax.ops` stands here.
"""

from __future__ import annotations

from typing import TypeAlias

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from simjax.lab.precision.settings import Form
from simjax.objectives import losses
from simjax.ops import AnchorIds, KeyIds, Reduction, reduce_pairs, row_loss


def tiled_loss(
    form: Form,
    x: Float[Array, "B D"],
    y: Float[Array, "N D"],
    scale: Float[Array, ""],
    dtype: DTypeLike,
    max_scale: float,
) -> Float[Array, ""]:
    """Sum over anchors of the loss, as `simjax.lab.precision.arms.dense_loss`.

    `max_scale` is the static bound of the scale, which training without a learned temperature sets
    to 1 / temperature: up to `simjax.ops.reductions.BOUNDED_SCALE` there is no running maximum.

    A streamed InfoNCE that is not softplus(v) reduces over all keys, the positive included, and
    subtracts its score: `lse_minus_positive` does so with the operator that recomputes scores in
    its backward pass, `cross_entropy` with the one that makes value and gradient in one sweep.
    """
    num_anchors, num_keys = x.shape[0], y.shape[0]
    with_positive = form in ("cross_entropy", "lse_minus_positive")
    # Keys of the anchors' own examples are left out; with other numbers, none are.
    anchors = _anchor_ids(num_anchors)
    keys = _key_ids(num_keys, first=num_keys if with_positive else 0)
    positive = scale * (x * y[:num_anchors]).sum(axis=1)
    reductions = [Reduction(scale, over="none", max_scale=max_scale)]
    if form == "lse_minus_positive":
        stats = reduce_pairs(x, y, anchors, keys, reductions, dtype=dtype)
        return (stats.rows[0] - positive).sum()
    value = {
        "cross_entropy": _difference,
        "softplus": _softplus,
        "dcl": _difference,
        "flatnce": _flatnce,
    }[form]
    return row_loss(value, positive, x, y, anchors, keys, reductions, dtype=dtype)[0]


Reduced: TypeAlias = tuple[Float[Array, "R"], ...]


def _difference(reduced: Reduced, positive: Float[Array, "R"]) -> Float[Array, "R"]:
    return reduced[0] - positive


def _softplus(reduced: Reduced, positive: Float[Array, "R"]) -> Float[Array, "R"]:
    return losses.infonce(reduced[0] - positive)


def _flatnce(reduced: Reduced, positive: Float[Array, "R"]) -> Float[Array, "R"]:
    return losses.flatnce(reduced[0] - positive)


def _anchor_ids(count: int) -> AnchorIds:
    number = jnp.arange(count, dtype=jnp.int32)
    return AnchorIds(number, number, number[:, None], jnp.full(count, -1, jnp.int32))


def _key_ids(count: int, first: int) -> KeyIds:
    number = first + jnp.arange(count, dtype=jnp.int32)
    return KeyIds(number, number, number[:, None], jnp.full(count, -1, jnp.int32))
