"""Value and gradient of a row loss in one sweep: 6 B N D operations where `tiled` takes 8 B N D.

Once the log-sum-exp of a row is complete, a loss of that row alone gives its gradient, so the
terms that were just made can be used before they are forgotten: a strip of rows by all keys is
held, R N numbers, and no score is made twice. A loss of columns has no such moment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simjax.mesh import vary_like
from simjax.ops.operands import in_order, product, settle
from simjax.ops.reductions import PairStats, Reduction, factor, slopes
from simjax.ops.tiles import (
    Cols,
    Gradients,
    Rows,
    RowSums,
    Shares,
    Tile,
    Tiling,
    add_tile,
    cut_cols,
    cut_rows,
    even,
    finish,
    join,
    join_facts,
    make_tile,
    no_columns,
    split,
)

RowValue: TypeAlias = Callable[[tuple[Float[Array, "R"], ...], Any], Float[Array, "R"]]
"""The loss of each row from its reductions and its own arguments, arrays [R, ...] of floats."""

_HELD = 2**22
"""Numbers in a strip, where it would otherwise have more than `_FEWEST` rows."""

_FEWEST = 256
"""Rows of a strip that still make for fast products: as many bytes as keys of width 256."""

_ON_GPU = 4
"""How many times as many rows, and columns of a tile, a GPU is given; see `tiled.tile_shape`."""


def tile_shape(num_anchors: int, num_keys: int, on_gpu: bool = False) -> tuple[int, int]:
    """Rows of a strip, and columns of its tiles."""
    rows, times = min(max(_HELD // num_keys, _FEWEST), 1024), _ON_GPU if on_gpu else 1
    return even(num_anchors, times * rows), even(num_keys, times * 512)


def value_and_grad(
    value: RowValue,
    arguments: Any,
    rows: Rows,
    cols: Cols,
    scales: Float[Array, "S"],
    tiling: Tiling,
) -> tuple[Float[Array, ""], PairStats, tuple[Any, Gradients]]:
    """The sum of the row losses, the statistics, and gradients; see `simjax.ops.row_loss`.

    One reduction alone is differentiable. With f_i the derivative of row i's loss by it, the
    gradients are those of `reference.backward`.

    Returns:
        Gradients by ``arguments``, and by the operands, in float32.
    """
    whole, num_anchors, width = (rows, cols), len(rows.x), rows.x.shape[1]
    tiling = tiling.shaped(tile_shape, num_anchors, len(cols.y))
    (main,) = tiling.differentiable
    kind, scale = tiling.reductions[main], scales[main]
    real = vary_like(jnp.ones(num_anchors, jnp.float32), rows.x)
    rows, cols = cut_rows(rows, tiling.rows), cut_cols(cols, tiling.cols)
    arguments, real = split((arguments, real), tiling.rows)
    no_column = no_columns((1, tiling.cols), tiling)

    def strip(carry: tuple, of_row: tuple) -> tuple[tuple, tuple]:
        row, arguments, real = of_row

        def reduce(sums: RowSums, col: Cols) -> tuple[RowSums, Array]:
            tile = make_tile(row, col, tiling)
            sums, _ = add_tile(sums, no_column, tile, scales, tiling)
            return sums, _held(tile, main, scale, kind, col.y)

        nothing = vary_like(RowSums.empty((tiling.rows, 1), tiling), row.x)
        sums, held = jax.lax.scan(reduce, nothing, cols)
        stats = finish(join_facts(sums, tiling.rows), no_column, tiling)
        values, pull = jax.vjp(value, stats.rows, arguments)
        g_rows, g_arguments = jax.tree.map(
            # Of padding a derivative may be no number.
            lambda g: jnp.where(_beside(real, g) > 0, g, jnp.zeros_like(g)),
            pull(real),
        )
        lse, by = factor(stats.rows[main], g_rows[main], scale, kind)
        # Factors go into vectors, and the product lies as it is fastest: rows by columns.
        weighted = settle((by[:, None] * row.x.astype(jnp.float32)).T.astype(row.x.dtype))

        def pull_back(carry: tuple, of_col: tuple) -> tuple[tuple, Array | None]:
            d_row, d_cols = carry
            j, key, held, d_bias = of_col
            weight = held if kind.nothing == 0 else jnp.exp(held - lse[:, None])
            if d_bias is not None:
                d_bias += product(by[None, :], weight, (1, 0))
            weight = weight.astype(key.dtype)
            d_row += product(weight, key, (1, 0))
            d_cols = d_cols.at[j].add(product(weighted, weight, (1, 0)))
            return (d_row, d_cols), d_bias

        d_cols, d_bias = carry
        start = vary_like(jnp.zeros((tiling.rows, width), jnp.float32), row.x)
        of_cols = (jnp.arange(len(held)), cols.y, held, d_bias)
        (d_row, d_cols), d_bias = jax.lax.scan(pull_back, (start, d_cols), of_cols)
        of_row = (sums, jnp.where(real > 0, values, 0.0), g_arguments, by[:, None] * d_row)
        return (d_cols, d_bias), of_row

    nothing = Shares.empty((), cols.ids.text.shape, cols.biases, tiling)
    d_cols = jnp.zeros((len(cols.y), width, tiling.cols), jnp.float32)
    start = vary_like((d_cols, nothing.biases[0]), rows.x)
    (d_cols, d_bias), of_rows = jax.lax.scan(strip, start, (rows, arguments, real))
    sums, values, d_arguments, d_x = of_rows
    num_keys = len(whole[1].y)
    d_x, d_arguments = join((d_x, d_arguments), num_anchors)
    d_y = join(in_order(d_cols).swapaxes(1, 2), num_keys)
    shares = Shares((), (join_facts(d_bias, num_keys),))
    grads = Gradients.of(d_x, d_y, shares, *whole, scales, tiling)
    stats = finish(join_facts(sums, num_anchors), no_column, tiling)
    return values.sum(), stats, (d_arguments, grads)


def _held(tile: Tile, k: int, scale: Array, kind: Reduction, like: Array) -> Float[Array, "R C"]:
    """What of a tile is kept until its rows are complete: weights but for what rows decide.

    Of a log-sum-exp without a bound, scores in float32; otherwise numbers up to 1, as operands
    unless a bias's gradient is summed from them.
    """
    found = slopes(tile.cosines, scale, tile.biases[k], kind)
    found = jnp.where(tile.masks[k].row, found, kind.nothing)
    exact = kind.nothing != 0 or tile.biases[k] is not None
    return found if exact else found.astype(like.dtype)


def _beside(x: Float[Array, "R"], like: Float[Array, "R ..."]) -> Float[Array, "R ..."]:
    return x.reshape(-1, *[1] * (like.ndim - 1))
