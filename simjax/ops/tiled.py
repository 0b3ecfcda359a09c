"""The operator in tiles: memory O((B + N) D + tile), forward and backward one pass each.

Each tile of scores is made once in the forward pass and once more in the backward pass, and every
reduction (rows, columns, maximum, uniformity) takes it while it is there: 2 B N D multiply-adds
forward, 6 B N D backward, whatever is asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simjax.mesh import vary_like
from simjax.ops.pairs import (
    ABSENT,
    AnchorIds,
    KeyIds,
    PairStats,
    Reductions,
    negatives,
    potential,
    spread_pairs,
)

BOUNDED_SCALE = 40.0
"""Up to here exp(s - scale) of a cosine stays a normal float32: exp(-80) is 2e-35."""


@dataclass(frozen=True)
class Tiling(Reductions):
    """The reductions and the shape of a tile."""

    rows: int = 0
    cols: int = 0

    @property
    def bounded(self) -> bool:
        """Whether a fixed shift cannot underflow."""
        return self.max_scale <= BOUNDED_SCALE


def tile_shape(num_anchors: int, num_keys: int) -> tuple[int, int]:
    """Tiles that stay in a core's cache and divide the work with little padding."""

    def even(n: int, most: int) -> int:
        tiles = max(1, math.ceil(n / most))
        return math.ceil(n / tiles / 8) * 8

    return even(num_anchors, 1024), even(num_keys, 1024)


class _Rows(NamedTuple):
    """Anchors and their ids, cut into tiles: [tiles, rows, ...]."""

    x: Float[Array, "I R D"]
    ids: AnchorIds


class _Cols(NamedTuple):
    y: Float[Array, "J C D"]
    ids: KeyIds


_Tiles = TypeVar("_Tiles", _Rows, _Cols)


def _cut(tree: _Tiles, size: int) -> _Tiles:
    """Pads with `ABSENT` rows and cuts into tiles of ``size``."""

    def one(x: Array) -> Array:
        padding = -x.shape[0] % size
        fill = ABSENT if jnp.issubdtype(x.dtype, jnp.integer) else 0
        x = jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1), constant_values=fill)
        return x.reshape(-1, size, *x.shape[1:])

    return jax.tree.map(one, tree)


def _cosines(x: Float[Array, "R D"], y: Float[Array, "C D"]) -> Float[Array, "R C"]:
    return jax.lax.dot_general(
        x,
        y,
        (((1,), (1,)), ((), ())),
        precision=_precision(x),
        preferred_element_type=jnp.float32,
    )


def _precision(x: Array) -> jax.lax.Precision | None:
    """float32 operands mean float32 products: no silent tf32 or bfloat16 passes."""
    return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None


class _Sums(NamedTuple):
    """Running log-sum-exp: sum of exp(s - top). With a bounded scale `top` is never touched."""

    total: Array
    top: Array

    def lse(self) -> Array:
        return jnp.where(self.total != 0, jnp.log(self.total) + self.top, -jnp.inf)


def _empty(shape: tuple[int, ...], tiling: Tiling) -> _Sums:
    top = tiling.max_scale if tiling.bounded else -jnp.inf
    return _Sums(jnp.zeros(shape, jnp.float32), jnp.full(shape, top, jnp.float32))


def _merge(sums: _Sums, logits: Float[Array, "R C"], axis: int) -> _Sums:
    """Adds a tile to a running log-sum-exp along ``axis`` (online form)."""
    top = jnp.maximum(sums.top, logits.max(axis=axis))
    safe = jnp.where(jnp.isfinite(top), top, 0.0)
    old = jnp.where(jnp.isfinite(sums.top), jnp.exp(sums.top - safe), 0.0)
    new = jnp.exp(logits - jnp.expand_dims(safe, axis)).sum(axis=axis)
    return _Sums(sums.total * old + new, top)


def forward(
    anchors: Float[Array, "B D"],
    keys: Float[Array, "N D"],
    scale: Float[Array, ""],
    anchor_ids: AnchorIds,
    key_ids: KeyIds,
    tiling: Tiling,
) -> PairStats:
    """`PairStats`, a tile at a time; see `simjax.ops.pair_lse`."""
    rows = _cut(_Rows(anchors, anchor_ids), tiling.rows)
    cols = _cut(_Cols(keys, key_ids), tiling.cols)

    def tile(carry: tuple, col: tuple) -> tuple:
        row, row_sums, row_max, spread, pairs = carry
        key, col_sums = col
        cosines = _cosines(row.x, key.y)
        mask = negatives(row.ids, key.ids, tiling)
        if tiling.bounded:
            terms = jnp.where(mask, jnp.exp(scale * cosines - tiling.max_scale), 0.0)
            row_sums = row_sums._replace(total=row_sums.total + terms.sum(axis=1))
            if tiling.columns:
                col_sums = col_sums._replace(total=col_sums.total + terms.sum(axis=0))
        else:
            logits = jnp.where(mask, scale * cosines, -jnp.inf)
            row_sums = _merge(row_sums, logits, 1)
            if tiling.columns:
                col_sums = _merge(col_sums, logits, 0)
        row_max = jnp.maximum(row_max, jnp.where(mask, cosines, -jnp.inf).max(axis=1))
        apart = spread_pairs(row.ids, key.ids)
        spread += jnp.where(apart, potential(cosines, tiling.t), 0.0).sum(axis=1)
        pairs += apart.sum(axis=1, dtype=jnp.float32)
        return (row, row_sums, row_max, spread, pairs), col_sums

    def row_of_tiles(col_sums: _Sums, row: _Rows) -> tuple[_Sums, tuple]:
        zero = jnp.zeros(tiling.rows, jnp.float32)
        start = (_empty((tiling.rows,), tiling), zero - jnp.inf, zero, zero)
        carry = (row, *vary_like(start, anchors))
        (_, *sums), col_sums = jax.lax.scan(tile, carry, (cols, col_sums))
        return col_sums, tuple(sums)

    shape = (cols.y.shape[0], tiling.cols if tiling.columns else 0)
    start = vary_like(_empty(shape, tiling), anchors)
    col_sums, by_row = jax.lax.scan(row_of_tiles, start, rows)
    row_sums, row_max, spread, pairs = by_row
    return PairStats(
        row=row_sums.lse().reshape(-1)[: anchors.shape[0]],
        col=col_sums.lse().reshape(-1)[: keys.shape[0]] if tiling.columns else None,
        row_max=row_max.reshape(-1)[: anchors.shape[0]],
        potential=spread.sum(),
        pairs=pairs.sum(),
    )


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
    rows = _cut(_Rows(anchors, anchor_ids), tiling.rows)
    cols = _cut(_Cols(keys, key_ids), tiling.cols)

    def cut_lse(lse: Array, grad: Array, size: int) -> tuple[Array, Array]:
        """Log-sum-exps made finite, and gradients that are zero where there was nothing."""
        padding = [(0, -lse.shape[0] % size)]
        some = lse != -jnp.inf
        # The scale goes in here, where it multiplies vectors and not gradients of [N, D].
        lse, grad = jnp.where(some, lse, 0.0), jnp.where(some, scale * grad, 0.0)
        if tiling.bounded:
            # One exponential serves rows and columns: softmax = exp(s - max) * exp(max - lse).
            grad = grad * jnp.exp(tiling.max_scale - jnp.where(some, lse, tiling.max_scale))
        lse, grad = jnp.pad(lse, padding), jnp.pad(grad, padding)
        return lse.reshape(-1, size), grad.reshape(-1, size)

    row_lse = cut_lse(stats.row, g_row, tiling.rows)
    col_lse = None
    if stats.col is not None and g_col is not None:
        col_lse = cut_lse(stats.col, g_col, tiling.cols)

    def weights(cosines: Array, mask: Array, by_row: tuple, by_col: tuple | None) -> Array:
        lse, grad = by_row
        logits = scale * cosines
        if tiling.bounded:
            total = grad[:, None] if by_col is None else grad[:, None] + by_col[1][None, :]
            return jnp.where(mask, total * jnp.exp(logits - tiling.max_scale), 0.0)
        logits = jnp.where(mask, logits, -jnp.inf)
        weight = grad[:, None] * jnp.exp(logits - lse[:, None])
        if by_col is not None:
            weight += by_col[1][None, :] * jnp.exp(logits - by_col[0][None, :])
        return weight

    def tile(carry: tuple, col: tuple) -> tuple:
        row, by_row, d_row = carry
        key, by_col, d_col = col
        cosines = _cosines(row.x, key.y)
        mask = negatives(row.ids, key.ids, tiling)
        weight = weights(cosines, mask, by_row, by_col).astype(key.y.dtype)
        d_row += _product(weight, key.y, 1)
        d_col += _product(weight, row.x, 0)
        return (row, by_row, d_row), d_col

    def row_of_tiles(d_cols: Array, row: tuple) -> tuple[Array, Array]:
        start = vary_like(jnp.zeros(row[0].x.shape, jnp.float32), anchors)
        (_, _, d_row), d_cols = jax.lax.scan(tile, (*row, start), (cols, col_lse, d_cols))
        return d_cols, d_row

    start = vary_like(jnp.zeros(cols.y.shape, jnp.float32), anchors)
    d_cols, d_rows = jax.lax.scan(row_of_tiles, start, (rows, row_lse))
    width = anchors.shape[1]
    d_rows = d_rows.reshape(-1, width)[: anchors.shape[0]]
    d_cols = d_cols.reshape(-1, width)[: keys.shape[0]]
    # sum_ij w_ij x_i . y_j is already there: d_rows holds scale sum_j w_ij y_j.
    d_scale = (anchors.astype(jnp.float32) * d_rows).sum() / scale
    return d_rows, d_cols, d_scale


def _product(weight: Float[Array, "R C"], x: Array, contract: int) -> Float[Array, "M D"]:
    return jax.lax.dot_general(
        weight,
        x,
        (((contract,), (0,)), ((), ())),
        precision=_precision(x),
        preferred_element_type=jnp.float32,
    )
