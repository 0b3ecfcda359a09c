"""The operator in tiles: memory O((B + N) D + tile), forward and backward one pass each.

Each tile of scores is made once in the forward pass and once more in the backward pass, and every
reduction (rows, columns, maximum, uniformity) takes it while it is there: 2 B N D operations
forward, 6 B N D backward, whatever is asked for.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simjax.mesh import vary_like
from simjax.ops.operands import product, settle
from simjax.ops.pairs import AnchorIds, KeyIds, PairStats, negatives
from simjax.ops.tiles import (
    Cols,
    Factors,
    Rows,
    RowSums,
    Sums,
    Tiling,
    cut,
    cut_factors,
    even,
    join_gradients,
    terms,
)


def tile_shape(num_anchors: int, num_keys: int) -> tuple[int, int]:
    """Tiles that stay in a core's cache and divide the work with little padding."""
    return even(num_anchors, 1024), even(num_keys, 1024)


def forward(
    anchors: Float[Array, "B D"],
    keys: Float[Array, "N D"],
    scale: Float[Array, ""],
    anchor_ids: AnchorIds,
    key_ids: KeyIds,
    tiling: Tiling,
) -> PairStats:
    """`PairStats`, a tile at a time; see `simjax.ops.pair_lse`."""
    rows = cut(Rows(anchors, anchor_ids), tiling.rows)
    cols = cut(Cols(keys, key_ids), tiling.cols)
    col_sums = no_columns(cols, tiling, anchors)
    row_sums, col_sums = reduce(rows, cols, RowSums.empty(rows, tiling), col_sums, scale, tiling)
    return row_sums.stats(anchors.shape[0], columns(col_sums, keys.shape[0], tiling))


def columns(sums: Sums, num_keys: int, tiling: Tiling) -> Float[Array, "N"] | None:
    """The log-sum-exp of each key's column, if columns are reduced."""
    return sums.lse().reshape(-1)[:num_keys] if tiling.columns else None


def no_columns(cols: Cols, tiling: Tiling, like: Array) -> Sums:
    """The sums of columns before the first tile, varying over devices as ``like`` does."""
    shape = (cols.y.shape[0], tiling.cols if tiling.columns else 0)
    return vary_like(Sums.empty(shape, tiling), like)


def reduce(
    rows: Rows, cols: Cols, row_sums: RowSums, col_sums: Sums, scale: Array, tiling: Tiling
) -> tuple[RowSums, Sums]:
    """The sums of rows and of columns with those of all tiles added."""

    def tile(carry: tuple[Rows, RowSums], col: tuple[Cols, Sums]) -> tuple:
        (row, row_sums), (key, col_sums) = carry, col
        row_sums, terms = row_sums.add(row, key, scale, tiling)
        if tiling.columns:
            col_sums = col_sums.add(terms, 0, tiling)
        return (row, row_sums), col_sums

    def row_of_tiles(col_sums: Sums, of_row: tuple[Rows, RowSums]) -> tuple[Sums, RowSums]:
        (_, row_sums), col_sums = jax.lax.scan(tile, of_row, (cols, col_sums))
        return col_sums, row_sums

    col_sums, row_sums = jax.lax.scan(row_of_tiles, col_sums, (rows, row_sums))
    return row_sums, col_sums


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
    """Gradients of anchors, keys and scale in float32; the formula is `reference.backward`'s."""
    rows = cut(Rows(anchors, anchor_ids), tiling.rows)
    cols = cut(Cols(keys, key_ids), tiling.cols)
    by_row, by_col = cut_factors(stats, g_row, g_col, scale, tiling)
    d_rows, d_cols = pull_back(rows, cols, by_row, by_col, scale, tiling)
    return join_gradients(d_rows, d_cols, anchors, keys.shape[0], scale)


def pull_back(
    rows: Rows, cols: Cols, by_row: Factors, by_col: Factors | None, scale: Array, tiling: Tiling
) -> tuple[Float[Array, "I R D"], Float[Array, "J D C"]]:
    """Gradients of the vectors of all tiles, from what `finite` makes of rows and columns."""

    def weights(terms: Array, by_row: Factors, by_col: Factors | None) -> Array:
        lse, factor = by_row
        if tiling.bounded:
            total = factor[:, None] if by_col is None else factor[:, None] + by_col[1][None, :]
            return total * terms
        weight = factor[:, None] * jnp.exp(terms - lse[:, None])
        if by_col is not None:
            weight += by_col[1][None, :] * jnp.exp(terms - by_col[0][None, :])
        return weight

    def row_of_tiles(d_cols: Float[Array, "J D C"], of_row: tuple) -> tuple[Array, Array]:
        row, by_row = of_row
        # The product lies as it is fastest: rows by columns.
        flipped = settle(row.x.T)

        def tile(carry: tuple, col: tuple) -> tuple[tuple, None]:
            d_row, d_cols = carry
            j, key, by_col = col
            mask = negatives(row.ids, key.ids, tiling)
            tile = terms(product(row.x, key.y, (1, 1)), mask, scale, tiling)
            weight = weights(tile, by_row, by_col).astype(key.y.dtype)
            d_row += product(weight, key.y, (1, 0))
            d_cols = d_cols.at[j].add(product(flipped, weight, (1, 0)))
            return (d_row, d_cols), None

        start = vary_like(jnp.zeros(row.x.shape, jnp.float32), rows.x)
        order = jnp.arange(len(cols.y))
        (d_row, d_cols), _ = jax.lax.scan(tile, (start, d_cols), (order, cols, by_col))
        return d_cols, d_row

    shape = (len(cols.y), rows.x.shape[-1], tiling.cols)
    start = vary_like(jnp.zeros(shape, jnp.float32), rows.x)
    d_cols, d_rows = jax.lax.scan(row_of_tiles, start, (rows, by_row))
    return d_rows, d_cols
