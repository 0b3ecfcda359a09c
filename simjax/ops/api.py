"""One entry to the operator: dispatch, differentiation and sharding."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from simjax.mesh import axes_of
from simjax.ops import reference, ring, sharded, strips, tiled
from simjax.ops.pairs import AnchorIds, FalseNegatives, KeyIds, PairStats
from simjax.ops.sharded import Exchange
from simjax.ops.strips import RowValue
from simjax.ops.tiles import Tiling

Implementation = Literal["tiled", "reference"]


def pair_lse(
    anchors: Float[Array, "B D"],
    keys: Float[Array, "N D"],
    anchor_ids: AnchorIds,
    key_ids: KeyIds,
    scale: Float[Array, ""] | float,
    *,
    max_scale: float,
    false_negatives: FalseNegatives = "text",
    columns: bool = False,
    one_side: bool = False,
    t: float = 2.0,
    dtype: DTypeLike = jnp.float32,
    tile: tuple[int, int] | None = None,
    implementation: Implementation = "tiled",
    exchange: Exchange | None = None,
) -> PairStats:
    """Log-sum-exp of ``scale * x . y`` over the negatives of each anchor, and of each key.

    Differentiable in anchors, keys and scale through `row` and `col`; the other statistics have no
    gradient. Inside a `jax.shard_map` whose axes the anchors are split over, anchors, keys and ids
    are this device's and the reductions run over all devices' pairs: keys are gathered and their
    gradients scattered back, so the result does not depend on the number of devices.

    Args:
        anchors: Unit vectors, float32.
        keys: Unit vectors, float32.
        anchor_ids: Identity of the anchors.
        key_ids: Identity of the keys.
        scale: 1 / temperature, at most ``max_scale``.
        max_scale: Static bound. Up to 40 there is no running maximum.
        false_negatives: Which keys are no negatives; see `simjax.ops.pairs.negatives`.
        columns: Also reduce over the anchors, for each key.
        one_side: Anchors and keys are of one kind; see `simjax.ops.pairs.Reductions`.
        t: The t of the uniformity potential.
        dtype: What the operands of the products are rounded to; products accumulate in float32.
            float32 is exact on every backend (no tf32 or bfloat16 passes).
        tile: Rows and columns of a tile; None chooses.
        implementation: ``tiled``, or ``reference`` for dense float32, which gathers.
        exchange: How devices see each other's keys; None goes by what gathered ones would take
            (`simjax.ops.sharded.choose_exchange`).

    Returns:
        Row statistics of this device's anchors, column statistics of this device's keys,
        `potential` and `pairs` of this device's anchors with all keys.
    """
    exchange = _exchange(exchange, keys, dtype, implementation)
    num_keys = keys.shape[0] * (1 if exchange == "ring" else sharded.num_shards(anchors))
    rows, cols = tile or tiled.tile_shape(anchors.shape[0], num_keys)
    tiling = Tiling(false_negatives, columns, t, max_scale, one_side, rows, cols)
    operands = sharded.vary_together(
        anchors, keys, jnp.asarray(scale, jnp.float32), anchor_ids, key_ids
    )
    stats = _stats((implementation, exchange, tiling, jnp.dtype(dtype)), *operands)
    if stats.col is None or exchange == "ring":
        return stats
    return replace(stats, col=sharded.merge_columns(stats.col))


def _exchange(
    wanted: Exchange | None, keys: Array, dtype: DTypeLike, implementation: Implementation
) -> Exchange:
    if implementation == "reference" or not axes_of(keys):
        return "all_gather"
    num_keys = keys.shape[0] * sharded.num_shards(keys)
    return wanted or sharded.choose_exchange(num_keys, keys.shape[1], dtype)


_Static: TypeAlias = tuple[Implementation, Exchange, Tiling, np.dtype]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _stats(
    static: _Static,
    anchors: Array,
    keys: Array,
    scale: Array,
    anchor_ids: AnchorIds,
    key_ids: KeyIds,
) -> PairStats:
    """Statistics of this device's anchors with all devices' keys.

    Columns are this device's part of all keys', not yet merged, or of a ring its keys' own.
    """
    return _stats_fwd(static, anchors, keys, scale, anchor_ids, key_ids)[0]


def _stats_fwd(
    static: _Static,
    anchors: Array,
    keys: Array,
    scale: Array,
    anchor_ids: AnchorIds,
    key_ids: KeyIds,
) -> tuple[PairStats, tuple]:
    implementation, exchange, tiling, dtype = static
    if exchange == "ring":
        pairs = (anchors.astype(dtype), keys.astype(dtype), scale, anchor_ids, key_ids)
    else:
        pairs = _gathered(dtype, anchors, keys, scale, anchor_ids, key_ids)
    stats = _run(implementation, exchange).forward(*pairs, tiling)
    return stats, (pairs, stats)


def _run(implementation: Implementation, exchange: Exchange) -> Any:
    """The module with the `forward` and `backward` to call."""
    if exchange == "ring":
        return ring
    return tiled if implementation == "tiled" else reference


def _gathered(
    dtype: np.dtype,
    anchors: Array,
    keys: Array,
    scale: Array,
    anchor_ids: AnchorIds,
    key_ids: KeyIds,
) -> tuple[Array, Array, Array, AnchorIds, KeyIds]:
    """This device's anchors with all devices' keys, as operands.

    To be called inside of a custom gradient: keys are cast before the gather, for its bytes, and
    the gradients that come back are summed over devices in float32.
    """
    keys, key_ids = sharded.gather_keys(keys.astype(dtype), key_ids)
    return anchors.astype(dtype), keys, scale, anchor_ids, key_ids


def _stats_bwd(static: _Static, residuals: tuple, grads: PairStats) -> tuple:
    implementation, exchange, tiling, _ = static
    pairs, stats = residuals
    backward = _run(implementation, exchange).backward
    d_anchors, d_keys, d_scale = backward(*pairs, stats, grads.row, grads.col, tiling)
    if exchange == "all_gather":
        d_keys = sharded.scatter_grads(d_keys)
    return d_anchors, d_keys, d_scale, None, None


_stats.defvjp(_stats_fwd, _stats_bwd)


def row_loss(
    value: RowValue,
    arguments: Any,
    anchors: Float[Array, "B D"],
    keys: Float[Array, "N D"],
    anchor_ids: AnchorIds,
    key_ids: KeyIds,
    scale: Float[Array, ""] | float,
    *,
    max_scale: float,
    false_negatives: FalseNegatives = "text",
    t: float = 2.0,
    dtype: DTypeLike = jnp.float32,
    tile: tuple[int, int] | None = None,
    implementation: Implementation = "tiled",
    exchange: Exchange | None = None,
) -> tuple[Float[Array, ""], PairStats]:
    """The sum over anchors of a loss of each one's log-sum-exp, and the statistics of `pair_lse`.

    The same function as ``value(pair_lse(...).row, arguments).sum()``, for three quarters of the
    operations: with the loss known, scores serve the value and the gradient in one sweep. Only
    the sum is differentiable, in arguments, anchors, keys and scale, and the gradient is computed
    with the value (where no gradient is wanted, it is not). On a ring, where a row is complete
    only when all keys have passed, it is that function itself.

    Args:
        value: The loss of each anchor, from [R] log-sum-exps (-inf without negatives) and
            ``arguments`` of the same anchors. It may not close over traced arrays.
        arguments: Arrays [B, ...] of floats.
        anchors: Unit vectors, float32.
        keys: Unit vectors, float32.
        anchor_ids: Identity of the anchors.
        key_ids: Identity of the keys.
        scale: 1 / temperature, at most ``max_scale``.
        max_scale: Static bound, as of `pair_lse`.
        false_negatives: Which keys are no negatives; see `simjax.ops.pairs.negatives`.
        t: The t of the uniformity potential.
        dtype: What the operands of the products are rounded to, as of `pair_lse`.
        tile: Rows of a strip, all keys wide, and columns of its tiles; None chooses.
        implementation: ``tiled``, or ``reference`` for dense float32.
        exchange: How devices see each other's keys, as of `pair_lse`.

    Returns:
        This device's part of the sum, and statistics without gradient.
    """
    scale = jnp.asarray(scale, jnp.float32)
    exchange = _exchange(exchange, keys, dtype, implementation)
    if implementation == "reference" or exchange == "ring":
        stats = pair_lse(
            anchors,
            keys,
            anchor_ids,
            key_ids,
            scale,
            max_scale=max_scale,
            false_negatives=false_negatives,
            t=t,
            dtype=dtype,
            tile=tile,
            implementation=implementation,
            exchange=exchange,
        )
        return value(stats.row, arguments).sum(), jax.lax.stop_gradient(stats)
    num_keys = keys.shape[0] * sharded.num_shards(anchors)
    rows, cols = tile or strips.tile_shape(anchors.shape[0], num_keys)
    tiling = Tiling(false_negatives, False, t, max_scale, False, rows, cols)
    operands = sharded.vary_together(arguments, anchors, keys, scale, anchor_ids, key_ids)
    return _row_loss((value, tiling, jnp.dtype(dtype)), *operands)


_StaticRows: TypeAlias = tuple[RowValue, Tiling, np.dtype]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _row_loss(
    static: _StaticRows,
    arguments: Any,
    anchors: Array,
    keys: Array,
    scale: Array,
    anchor_ids: AnchorIds,
    key_ids: KeyIds,
) -> tuple[Array, PairStats]:
    value, tiling, dtype = static
    pairs = _gathered(dtype, anchors, keys, scale, anchor_ids, key_ids)
    stats = tiled.forward(*pairs, tiling)
    return value(stats.row, arguments).sum(), stats


def _row_loss_fwd(
    static: _StaticRows,
    arguments: Any,
    anchors: Array,
    keys: Array,
    scale: Array,
    anchor_ids: AnchorIds,
    key_ids: KeyIds,
) -> tuple[tuple[Array, PairStats], tuple]:
    value, tiling, dtype = static
    pairs = _gathered(dtype, anchors, keys, scale, anchor_ids, key_ids)
    total, stats, grads = strips.value_and_grad(value, arguments, *pairs, tiling)
    return (total, stats), grads


def _row_loss_bwd(static: _StaticRows, grads: tuple, cotangents: tuple) -> tuple:
    d_total, _ = cotangents
    d_arguments, d_anchors, d_keys, d_scale = jax.tree.map(lambda x: d_total * x, grads)
    return d_arguments, d_anchors, sharded.scatter_grads(d_keys), d_scale, None, None


_row_loss.defvjp(_row_loss_fwd, _row_loss_bwd)
