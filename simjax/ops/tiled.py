"""The operator in tiles: memory O((B + N) D + tile), forward and backward one pass each.

Each tile of scores is made once in the forward pass and once more in the backward pass, and all
reductions (of rows and of columns, at every scale) take it while it is there: 2 B N D operations
forward, 6 B N D backward, whatever is asked for.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simjax.mesh import vary_like
from simjax.ops.operands import in_order, product, settle
from simjax.ops.tiles import (
    Cols,
    ColSums,
    Factors,
    Gradients,
    Rows,
    RowSums,
    Shares,
    Tiling,
    add_tile,
    cut_cols,
    cut_rows,
    even,
    join,
    join_facts,
    make_tile,
    no_columns,
    pull_back_tile,
)


def tile_shape(num_anchors: int, num_keys: int, on_gpu: bool = False) -> tuple[int, int]:
    """Tiles that divide the work with little padding.

    They stay in a core's cache. A GPU's are larger: in bfloat16 at width 768 an H100 would be done
    with a product of 1,024 by 1,024 in the time that it takes to start one.
    """
    most = 4096 if on_gpu else 1024
    return even(num_anchors, most), even(num_keys, most)


def reduce(
    rows: Rows, cols: Cols, scales: Float[Array, "S"], tiling: Tiling
) -> tuple[RowSums, ColSums]:
    """What is reduced for each anchor and for each key, a tile at a time."""
    num_anchors, num_keys = len(rows.x), len(cols.y)
    tiling = tiling.shaped(tile_shape, num_anchors, num_keys)
    rows, cols = cut_rows(rows, tiling.rows), cut_cols(cols, tiling.cols)
    nothing = RowSums.empty((tiling.rows, 1), tiling)
    columns = no_columns((len(cols.y), 1, tiling.cols), tiling)
    nothing, columns = vary_like((nothing, columns), rows.x)

    def row_of_tiles(columns: ColSums, row: Rows) -> tuple[ColSums, RowSums]:
        def one(sums: RowSums, of_col: tuple[Cols, ColSums]) -> tuple[RowSums, ColSums]:
            col, column = of_col
            return add_tile(sums, column, make_tile(row, col, tiling), scales, tiling)

        sums, columns = jax.lax.scan(one, nothing, (cols, columns))
        return columns, sums

    columns, sums = jax.lax.scan(row_of_tiles, columns, rows)
    return join_facts(sums, num_anchors), join_facts(columns, num_keys)


def pull_back(
    rows: Rows, cols: Cols, factors: Factors, scales: Float[Array, "S"], tiling: Tiling
) -> Gradients:
    """Gradients, a tile at a time; the formula is `reference.backward`'s."""
    whole, width = (rows, cols), rows.x.shape[1]
    tiling = tiling.shaped(tile_shape, len(rows.x), len(cols.y))
    rows, by_row = cut_rows((rows, factors.rows), tiling.rows)
    cols, by_col = cut_cols((cols, factors.cols), tiling.cols)
    num_tiles = len(cols.y)

    def row_of_tiles(carry: tuple, of_row: tuple) -> tuple[tuple, tuple]:
        row, by_row = of_row
        # The product lies as it is fastest: rows by columns.
        flipped = settle(row.x.T)

        def one(carry: tuple, of_col: tuple) -> tuple[tuple, tuple]:
            d_row, d_scales, d_cols = carry
            j, col, by_col, d_biases = of_col
            tile = make_tile(row, col, tiling)
            shares = Shares(d_scales, d_biases)
            weight, shares = pull_back_tile(tile, Factors(by_row, by_col), shares, scales, tiling)
            weight = weight.astype(col.y.dtype)
            d_row += product(weight, col.y, (1, 0))
            d_cols = d_cols.at[j].add(product(flipped, weight, (1, 0)))
            return (d_row, shares.scales, d_cols), shares.biases

        d_cols, d_biases = carry
        start = (jnp.zeros(row.x.shape, jnp.float32), nothing.scales)
        of_cols = (jnp.arange(num_tiles), cols, by_col, d_biases)
        (d_row, d_scales, d_cols), d_biases = jax.lax.scan(
            one, (*vary_like(start, row.x), d_cols), of_cols
        )
        return (d_cols, d_biases), (d_row, d_scales)

    shape = (num_tiles, 1, tiling.cols)
    nothing = Shares.empty((tiling.rows, 1), shape, cols.biases, tiling)
    d_cols = jnp.zeros((num_tiles, width, tiling.cols), jnp.float32)
    start = vary_like((d_cols, nothing.biases), rows.x)
    (d_cols, d_biases), (d_rows, d_scales) = jax.lax.scan(row_of_tiles, start, (rows, by_row))
    shares = Shares(d_scales, join_facts(d_biases, len(whole[1].y)))
    d_cols = in_order(d_cols).swapaxes(1, 2)
    d_x, d_y = join(d_rows, len(whole[0].x)), join(d_cols, len(whole[1].y))
    return Gradients.of(d_x, d_y, shares, *whole, scales, tiling)
