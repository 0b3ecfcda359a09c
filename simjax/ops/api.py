"""One entry to the operator: dispatch, differentiation and sharding."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from simjax.ops import reference, sharded, tiled
from simjax.ops.pairs import AnchorIds, FalseNegatives, KeyIds, PairStats

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
        implementation: ``tiled``, or ``reference`` for dense float32.

    Returns:
        Row statistics of this device's anchors, column statistics of this device's keys,
        `potential` and `pairs` of this device's anchors with all keys.
    """
    num_keys = keys.shape[0] * sharded.num_shards(anchors)
    rows, cols = tile or tiled.tile_shape(anchors.shape[0], num_keys)
    tiling = tiled.Tiling(false_negatives, columns, t, max_scale, one_side, rows, cols)
    operands = sharded.vary_together(
        anchors, keys, jnp.asarray(scale, jnp.float32), anchor_ids, key_ids
    )
    stats = _stats((implementation, tiling, jnp.dtype(dtype)), *operands)
    col = None if stats.col is None else sharded.merge_columns(stats.col)
    return replace(stats, col=col)


_Static: TypeAlias = tuple[Implementation, tiled.Tiling, np.dtype]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _stats(
    static: _Static,
    anchors: Array,
    keys: Array,
    scale: Array,
    anchor_ids: AnchorIds,
    key_ids: KeyIds,
) -> PairStats:
    """Statistics of this device's anchors with all devices' keys; columns not yet merged."""
    return _stats_fwd(static, anchors, keys, scale, anchor_ids, key_ids)[0]


def _stats_fwd(
    static: _Static,
    anchors: Array,
    keys: Array,
    scale: Array,
    anchor_ids: AnchorIds,
    key_ids: KeyIds,
) -> tuple[PairStats, tuple]:
    implementation, tiling, dtype = static
    anchors = anchors.astype(dtype)
    # Cast before the gather, for its bytes, but inside of the custom gradient, so that the
    # gradients that come back are summed over devices in float32.
    keys, key_ids = sharded.gather_keys(keys.astype(dtype), key_ids)
    pairs = (anchors, keys, scale, anchor_ids, key_ids)
    run = tiled if implementation == "tiled" else reference
    stats = run.forward(*pairs, tiling)
    return stats, (pairs, stats)


def _stats_bwd(static: _Static, residuals: tuple, grads: PairStats) -> tuple:
    implementation, tiling, _ = static
    pairs, stats = residuals
    run = tiled if implementation == "tiled" else reference
    d_anchors, d_keys, d_scale = run.backward(*pairs, stats, grads.row, grads.col, tiling)
    return d_anchors, sharded.scatter_grads(d_keys), d_scale, None, None


_stats.defvjp(_stats_fwd, _stats_bwd)
