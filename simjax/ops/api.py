"""One entry to the operator: dispatch, differentiation and sharding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from simjax.mesh import axes_of
from simjax.ops import dispatch, reference, ring, sharded
from simjax.ops.arguments import check_arguments
from simjax.ops.dispatch import Implementation
from simjax.ops.pairs import AnchorIds, Guide, Ids, KeyIds
from simjax.ops.reductions import PairStats, Reduction
from simjax.ops.sharded import Exchange
from simjax.ops.strips import RowValue
from simjax.ops.tiles import Cols, Factors, Gradients, Rows, Sight, Tiling, finish

Wanted: TypeAlias = Literal["reference"] | Implementation | None
"""The dense oracle, an implementation by name, or None for the platform's own."""


def reduce_pairs(
    anchors: Float[Array, "B D"],
    keys: Float[Array, "N D"],
    anchor_ids: AnchorIds,
    key_ids: KeyIds,
    reductions: Sequence[Reduction],
    *,
    guide: Guide | None = None,
    one_side: bool = False,
    dtype: DTypeLike = jnp.float32,
    tile: tuple[int, int] | None = None,
    implementation: Wanted = None,
    exchange: Exchange | None = None,
) -> PairStats:
    """Reductions of the scores of all anchors with all keys, in one pass over them.

    Every reduction has its own scale, bias and pairs, and may reduce rows (for each anchor) alone
    or columns (for each key) too. All are taken from a tile of cosines while it is there, and
    pulled back from one more pass, so that it is the products of one direction whatever is asked
    for. Rows and columns are differentiable in anchors, keys, scales and biases, in reverse mode;
    counts and maxima are not.

    Inside a `jax.shard_map` whose axes anchors and keys are split over, the arguments are this
    device's and the reductions run over all devices' pairs, so the result does not depend on the
    number of devices. That they are split is read off their types, which `check_vma=False` hides.
    Under `jax.vmap`, ask for ``tiled``: a TPU kernel has no batch.

    Args:
        anchors: Unit vectors, float32.
        keys: Unit vectors, float32.
        anchor_ids: Identity of the anchors.
        key_ids: Identity of the keys.
        reductions: What is wanted; at least one.
        guide: What `Reduction.guided` goes by.
        one_side: Anchors and keys are of one kind; see `simjax.ops.pairs.negatives`.
        dtype: What the operands of the products are rounded to; products accumulate in float32.
            float32 is exact on every backend (no tf32 or bfloat16 passes).
        tile: Rows and columns of a tile; None chooses.
        implementation: None goes by platform and size (`simjax.ops.dispatch`); ``reference`` is
            dense float32, and gathers.
        exchange: How devices see each other's keys; None goes by what gathered ones would take
            (`simjax.ops.sharded.choose_exchange`). With ``local`` they do not, and each device
            reduces the pairs of its own anchors and keys.

    Returns:
        Rows of this device's anchors, columns of this device's keys.

    Raises:
        ValueError: An argument is of the wrong kind, shape or type, a guided reduction has no
            guide, ids are split otherwise than their vectors, or the implementation that was
            asked for does not exist or cannot hold the pairs.
    """
    check_arguments(anchors, keys, anchor_ids, key_ids, reductions, guide, tile)
    rows, cols, scales, kinds = _operands(
        anchors, keys, anchor_ids, key_ids, reductions, guide, dtype
    )
    exchange = _exchange(exchange, keys, dtype, implementation, _guide_width(guide, reductions))
    tiling = Tiling(kinds, one_side, tile)
    stats = _stats((implementation, exchange, tiling, jnp.dtype(dtype)), rows, cols, scales)
    if exchange != "all_gather":
        return stats
    merged = (
        None if col is None else sharded.merge_columns(col, kind)
        for col, kind in zip(stats.cols, kinds, strict=True)
    )
    return replace(stats, cols=tuple(merged))


def _operands(
    anchors: Array,
    keys: Array,
    anchor_ids: AnchorIds,
    key_ids: KeyIds,
    reductions: Sequence[Reduction],
    guide: Guide | None,
    dtype: DTypeLike,
) -> tuple[Rows, Cols, Float[Array, "S"], tuple[Reduction, ...]]:
    """Both sides, the scales, and what is static of the reductions."""
    if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"dtype {jnp.dtype(dtype).name}: choose float32 or bfloat16")
    guided = any(kind.guided for kind in reductions)
    if guide is None and guided:
        raise ValueError("reductions: a guided one needs a guide")
    sights: tuple[Sight | None, Sight | None] = (None, None)
    if guide is not None and guided:
        sights = jax.lax.stop_gradient(
            (
                Sight(guide.anchors.astype(dtype), guide.anchor_limits.astype(jnp.float32)),
                Sight(guide.keys.astype(dtype), guide.key_limits.astype(jnp.float32)),
            )
        )
    biases = tuple(
        None
        if kind.bias is None
        else jnp.broadcast_to(jnp.asarray(kind.bias, jnp.float32), keys.shape[:1])
        for kind in reductions
    )
    ids = jax.tree.map(lambda fact: fact.astype(jnp.int32), (Ids.of(anchor_ids), Ids.of(key_ids)))
    rows = Rows(anchors.astype(jnp.float32), ids[0], sights[0])
    cols = Cols(keys.astype(jnp.float32), ids[1], sights[1], biases)
    _check(rows, "anchors")
    _check(cols, "keys")
    if axes_of(anchors) != axes_of(keys):
        raise ValueError(f"anchors are split over {axes_of(anchors)}, keys over {axes_of(keys)}")
    scales = jnp.stack([_bounded(kind) for kind in reductions])
    rows, cols, scales = sharded.vary_together(rows, cols, scales)
    return rows, cols, scales, tuple(kind.static for kind in reductions)


def _bounded(kind: Reduction) -> Float[Array, ""]:
    """The scale, NaN beyond its bound, where sums could overflow unseen."""
    scale = jnp.asarray(kind.scale, jnp.float32)
    return jnp.where(scale <= kind.max_scale * (1 + 1e-6), scale, jnp.nan)


def _check(side: Rows | Cols, name: str) -> None:
    """Refuses a side that is split over devices in some of its parts alone.

    A vector that is on every device beside examples that are not would be counted once for each.
    """
    vectors = side.x if isinstance(side, Rows) else side.y
    parts = [side.ids.example] if side.guide is None else [side.ids.example, side.guide.vectors]
    if any(axes_of(part) != axes_of(vectors) for part in parts):
        raise ValueError(
            f"{name}: vectors are split over {axes_of(vectors)}, and what is known of them over "
            f"{[axes_of(part) for part in parts]}"
        )


def _exchange(
    wanted: Exchange | None,
    keys: Array,
    dtype: DTypeLike,
    implementation: Wanted,
    guide_width: int,
) -> Exchange:
    if wanted not in (None, *get_args(Exchange)):
        raise ValueError(f"exchange {wanted!r}: choose one of {', '.join(get_args(Exchange))}")
    if wanted == "local" or not axes_of(keys):
        return "local"
    if implementation == "reference":
        return "all_gather"
    num_keys = len(keys) * sharded.num_shards(keys)
    return wanted or sharded.choose_exchange(num_keys, keys.shape[1], dtype, guide_width)


def _guide_width(guide: Guide | None, reductions: Sequence[Reduction]) -> int:
    """Numbers of a guide's vector that go with a key's."""
    return guide.keys.shape[1] if guide is not None and any(r.guided for r in reductions) else 0


_Static: TypeAlias = tuple[Wanted, Exchange, Tiling, np.dtype]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _stats(static: _Static, rows: Rows, cols: Cols, scales: Float[Array, "S"]) -> PairStats:
    """Statistics of this device's anchors with all devices' keys.

    Columns are this device's part of all keys', not yet merged, or of a ring its keys' own.
    """
    return _stats_fwd(static, rows, cols, scales)[0]


def _stats_fwd(
    static: _Static, rows: Rows, cols: Cols, scales: Float[Array, "S"]
) -> tuple[PairStats, tuple]:
    implementation, exchange, tiling, dtype = static
    rows, cols = _as_operands(rows, cols, dtype, exchange)
    if implementation == "reference":
        stats = reference.forward(rows, cols, scales, tiling)
    else:
        reduce = partial(dispatch.reduce, implementation)
        if exchange == "ring":
            reduce = partial(ring.reduce, reduce)
        stats = finish(*reduce(rows, cols, scales, tiling), tiling)
    return stats, (rows, cols, scales, stats)


def _as_operands(rows: Rows, cols: Cols, dtype: np.dtype, exchange: Exchange) -> tuple[Rows, Cols]:
    """Both sides with vectors of the operands' type, keys of all devices unless they go round.

    To be called inside of a custom gradient: keys are cast before the gather, for its bytes, and
    the gradients that come back are summed over devices in float32.
    """
    rows, cols = rows._replace(x=rows.x.astype(dtype)), cols._replace(y=cols.y.astype(dtype))
    return rows, sharded.gather(cols, cols.y) if exchange == "all_gather" else cols


def _stats_bwd(static: _Static, residuals: tuple, cotangents: PairStats) -> tuple:
    implementation, exchange, tiling, _ = static
    rows, cols, scales, stats = residuals
    if not tiling.differentiable:
        return None, None, None
    if implementation == "reference":
        grads = reference.backward(rows, cols, scales, stats, cotangents, tiling)
    else:
        factors = Factors.of(stats, cotangents, scales, tiling)
        pull_back = partial(dispatch.pull_back, implementation)
        if exchange == "ring":
            pull_back = partial(ring.pull_back, pull_back)
        grads = pull_back(rows, cols, factors, scales, tiling)
    if exchange == "all_gather":
        grads = _scattered(grads)
    return _cotangents(grads)


def _cotangents(grads: Gradients) -> tuple[Rows, Cols, Array]:
    """As custom gradients want them: None of what has none."""
    absent: Any = None
    rows, cols = Rows(grads.x, absent, absent), Cols(grads.y, absent, absent, grads.biases)
    return rows, cols, grads.scales


def _scattered(grads: Gradients) -> Gradients:
    """With each device's own keys' gradients, summed over devices."""
    y, biases = jax.tree.map(sharded.scatter, (grads.y, grads.biases))
    return grads._replace(y=y, biases=biases)


_stats.defvjp(_stats_fwd, _stats_bwd)


def row_loss(
    value: RowValue,
    arguments: Any,
    anchors: Float[Array, "B D"],
    keys: Float[Array, "N D"],
    anchor_ids: AnchorIds,
    key_ids: KeyIds,
    reductions: Sequence[Reduction],
    *,
    guide: Guide | None = None,
    dtype: DTypeLike = jnp.float32,
    tile: tuple[int, int] | None = None,
    implementation: Wanted = None,
    exchange: Exchange | None = None,
) -> tuple[Float[Array, ""], PairStats]:
    """The sum over anchors of a loss of each one's reductions, and all of `reduce_pairs`.

    The same function as ``value(reduce_pairs(...).rows, arguments).sum()``, for three quarters of
    the operations: with the loss known, scores serve the value and the gradient in one sweep. Only
    the sum is differentiable, in arguments, anchors, keys, scales and biases, and the gradient is
    computed with the value (where no gradient is wanted, it is not). On a ring, where a row is
    complete only when all keys have passed, or with more than one reduction to differentiate, it
    is that function itself.

    Args:
        value: The loss of each anchor, from [R] values of each reduction (log-sum-exps are -inf
            without pairs) and ``arguments`` of the same anchors. It may not close over traced
            arrays.
        arguments: Arrays [B, ...] of floats.
        anchors: Unit vectors, float32.
        keys: Unit vectors, float32.
        anchor_ids: Identity of the anchors.
        key_ids: Identity of the keys.
        reductions: What is wanted, of rows alone.
        guide: As of `reduce_pairs`.
        dtype: What the operands of the products are rounded to, as of `reduce_pairs`.
        tile: Rows of a strip, all keys wide, and columns of its tiles; None chooses.
        implementation: As of `reduce_pairs`.
        exchange: How devices see each other's keys, as of `reduce_pairs`.

    Returns:
        This device's part of the sum, and statistics without gradient.

    Raises:
        ValueError: There is no reduction, a guided one without a guide, or one of columns.
    """
    check_arguments(anchors, keys, anchor_ids, key_ids, reductions, guide, tile)
    if any(kind.columns for kind in reductions):
        raise ValueError("reductions: a loss of rows has no columns; use reduce_pairs")
    exchange = _exchange(exchange, keys, dtype, implementation, _guide_width(guide, reductions))
    several = sum(kind.gradient for kind in reductions) != 1
    if implementation == "reference" or exchange == "ring" or several:
        stats = reduce_pairs(
            anchors,
            keys,
            anchor_ids,
            key_ids,
            reductions,
            guide=guide,
            dtype=dtype,
            tile=tile,
            implementation=implementation,
            exchange=exchange,
        )
        return value(stats.rows, arguments).sum(), jax.lax.stop_gradient(stats)
    rows, cols, scales, kinds = _operands(
        anchors, keys, anchor_ids, key_ids, reductions, guide, dtype
    )
    arguments, rows, cols, scales = sharded.vary_together(arguments, rows, cols, scales)
    static = (implementation, value, exchange, Tiling(kinds, False, tile), jnp.dtype(dtype))
    return _row_loss(static, arguments, rows, cols, scales)


_StaticRows: TypeAlias = tuple[Implementation | None, RowValue, Exchange, Tiling, np.dtype]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _row_loss(
    static: _StaticRows, arguments: Any, rows: Rows, cols: Cols, scales: Float[Array, "S"]
) -> tuple[Array, PairStats]:
    implementation, value, exchange, tiling, dtype = static
    rows, cols = _as_operands(rows, cols, dtype, exchange)
    stats = finish(*dispatch.reduce(implementation, rows, cols, scales, tiling), tiling)
    return value(stats.rows, arguments).sum(), stats


def _row_loss_fwd(
    static: _StaticRows, arguments: Any, rows: Rows, cols: Cols, scales: Float[Array, "S"]
) -> tuple[tuple[Array, PairStats], tuple]:
    implementation, value, exchange, tiling, dtype = static
    rows, cols = _as_operands(rows, cols, dtype, exchange)
    total, stats, grads = dispatch.value_and_grad(
        implementation, value, arguments, rows, cols, scales, tiling
    )
    return (total, stats), grads


def _row_loss_bwd(static: _StaticRows, residuals: tuple, cotangents: tuple) -> tuple:
    d_total, _ = cotangents
    d_arguments, grads = jax.tree.map(lambda x: d_total * x, residuals)
    return d_arguments, *_cotangents(_scattered(grads) if static[2] == "all_gather" else grads)


_row_loss.defvjp(_row_loss_fwd, _row_loss_bwd)
