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
from simjax.ops.operands import product, settle
from simjax.ops.pairs import AnchorIds, KeyIds, PairStats
from simjax.ops.tiles import Cols, Rows, RowSums, Tiling, cut, even, finite, join_gradients

RowValue: TypeAlias = Callable[[Float[Array, "R"], Any], Float[Array, "R"]]
"""The loss of each row from its log-sum-exp and its own arguments, arrays [R, ...] of floats."""

_HELD = 2**23
"""Numbers in a strip, where it would otherwise have more than `_FEWEST` rows."""

_FEWEST = 256
"""Rows of a strip that still make for fast products: as many bytes as keys of width 256."""


def tile_shape(num_anchors: int, num_keys: int) -> tuple[int, int]:
    """Rows of a strip, and columns of its tiles."""
    rows = min(max(_HELD // num_keys, _FEWEST), 1024)
    return even(num_anchors, rows), even(num_keys, 512)


def value_and_grad(
    value: RowValue,
    arguments: Any,
    anchors: Float[Array, "B D"],
    keys: Float[Array, "N D"],
    scale: Float[Array, ""],
    anchor_ids: AnchorIds,
    key_ids: KeyIds,
    tiling: Tiling,
) -> tuple[Float[Array, ""], PairStats, tuple[Any, Array, Array, Array]]:
    """The sum of the row losses, the statistics, and gradients; see `simjax.ops.row_loss`.

    With f_i the derivative of row i's loss by its log-sum-exp and w_ij = f_i softmax_row(s)_ij,
    the gradients are those of `reference.backward`.

    Returns:
        Gradients by ``arguments``, ``anchors``, ``keys`` and ``scale``, in float32.
    """
    num_anchors, width = anchors.shape
    rows = cut(Rows(anchors, anchor_ids), tiling.rows)
    cols = cut(Cols(keys, key_ids), tiling.cols)
    real = vary_like(jnp.ones(num_anchors, jnp.float32), anchors)
    arguments, real = cut((arguments, real), tiling.rows)

    def strip(d_cols: Float[Array, "J D C"], of_row: tuple) -> tuple[Array, tuple]:
        row, arguments, real = of_row

        def reduce(sums: RowSums, key: Cols) -> tuple[RowSums, Array]:
            sums, terms = sums.add(row, key, scale, tiling)
            return sums, terms.astype(keys.dtype) if tiling.bounded else terms

        sums, held = jax.lax.scan(reduce, RowSums.empty(row, tiling), cols)
        lse = sums.sums.lse()
        values, pull = jax.vjp(value, lse, arguments)
        g_row, g_arguments = pull(real)
        lse, factor = finite(lse, g_row, scale, tiling)
        # Factors go into vectors, and the product lies as it is fastest: rows by columns.
        weighted = settle((factor[:, None] * row.x.astype(jnp.float32)).T.astype(keys.dtype))

        def pull_back(carry: tuple, col: tuple) -> tuple[tuple, None]:
            d_row, d_cols = carry
            j, key, terms = col
            weight = terms if tiling.bounded else jnp.exp(terms - lse[:, None]).astype(keys.dtype)
            d_row += product(weight, key, (1, 0))
            d_cols = d_cols.at[j].add(product(weighted, weight, (1, 0)))
            return (d_row, d_cols), None

        start = vary_like(jnp.zeros((tiling.rows, width), jnp.float32), anchors)
        order = jnp.arange(len(held))
        (d_row, d_cols), _ = jax.lax.scan(pull_back, (start, d_cols), (order, cols.y, held))
        return d_cols, (
            sums,
            jnp.where(real > 0, values, 0.0),
            g_arguments,
            factor[:, None] * d_row,
        )

    shape = (cols.y.shape[0], width, tiling.cols)
    start = vary_like(jnp.zeros(shape, jnp.float32), anchors)
    d_cols, by_row = jax.lax.scan(strip, start, (rows, arguments, real))
    sums, values, d_arguments, d_rows = by_row
    d_arguments = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:num_anchors], d_arguments)
    grads = join_gradients(d_rows, d_cols, anchors, keys.shape[0], scale)
    return values.sum(), sums.stats(num_anchors, None), (d_arguments, *grads)
