"""The operator across devices without gathered keys: they go round, and come home.

Each of ``n`` devices holds its own anchors and, in turn, the keys of every device: memory is
O(B D / n + tile) where gathered keys and their gradients take O(B D). What belongs to the keys
travels with them, the sums of their columns forward and their gradients backward, and is complete
when it is home again. Vectors are sent on before they are used and gradients arrive after the
products that they are added to, so that transfers and products overlap.

Bytes that each device sends for ``N`` keys of width ``D`` (all devices', as in
`simjax.ops.sharded`): N D operands forward; backward N D operands and N D floats; a few N besides.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simjax.mesh import vary_like
from simjax.ops import tiled
from simjax.ops.pairs import AnchorIds, KeyIds, PairStats
from simjax.ops.sharded import num_shards, pass_on
from simjax.ops.tiles import Cols, Rows, RowSums, Tiling, cut, cut_factors, join_gradients


def forward(
    anchors: Float[Array, "B D"],
    keys: Float[Array, "N D"],
    scale: Float[Array, ""],
    anchor_ids: AnchorIds,
    key_ids: KeyIds,
    tiling: Tiling,
) -> PairStats:
    """`PairStats` of this device's anchors with all keys, and of its keys with all anchors."""
    rows = cut(Rows(anchors, anchor_ids), tiling.rows)
    cols = cut(Cols(keys, key_ids), tiling.cols)

    def turn(carry: tuple, _: None) -> tuple[tuple, None]:
        cols, col_sums, row_sums = carry
        coming = pass_on(cols, anchors)
        row_sums, col_sums = tiled.reduce(rows, cols, row_sums, col_sums, scale, tiling)
        return (coming, pass_on(col_sums, anchors), row_sums), None

    start = (cols, tiled.no_columns(cols, tiling, anchors), RowSums.empty(rows, tiling))
    (_, col_sums, row_sums), _ = jax.lax.scan(turn, start, length=num_shards(anchors))
    return row_sums.stats(anchors.shape[0], tiled.columns(col_sums, keys.shape[0], tiling))


def backward(
    anchors: Float[Array, "B D"],
    keys: Float[Array, "N D"],
    scale: Float[Array, ""],
    anchor_ids: AnchorIds,
    key_ids: KeyIds,
    stats: PairStats,
    g_row: Float[Array, "B"],
    g_col: Float[Array, "N"] | None,
    tiling: Tiling,
) -> tuple[Float[Array, "B D"], Float[Array, "N D"], Float[Array, ""]]:
    """Gradients of this device's anchors and keys, and its part of the scale's, in float32."""
    rows = cut(Rows(anchors, anchor_ids), tiling.rows)
    cols = cut(Cols(keys, key_ids), tiling.cols)
    by_row, by_col = cut_factors(stats, g_row, g_col, scale, tiling)

    def turn(carry: tuple, _: None) -> tuple[tuple, None]:
        (cols, by_col), d_cols, d_rows = carry
        coming, arrived = pass_on(((cols, by_col), d_cols), anchors)
        d_row, d_col = tiled.pull_back(rows, cols, by_row, by_col, scale, tiling)
        return (coming, arrived + d_col, d_rows + d_row), None

    shape = (len(cols.y), anchors.shape[1], tiling.cols)
    zeros = (jnp.zeros(shape, jnp.float32), jnp.zeros(rows.x.shape, jnp.float32))
    start = ((cols, by_col), *vary_like(zeros, anchors))
    (_, d_cols, d_rows), _ = jax.lax.scan(turn, start, length=num_shards(anchors))
    # The gradients of a device's keys were last added to by the one before it.
    d_cols = pass_on(d_cols, anchors)
    return join_gradients(d_rows, d_cols, anchors, keys.shape[0], scale)
