"""The operator as dense float32 matrices, forward and backward written out by hand.

The oracle for every other implementation: B x N in memory, no tiles, no tricks.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from simjax.ops.pairs import pairs_over
from simjax.ops.reductions import PairStats, Reduction
from simjax.ops.tiles import Cols, Gradients, Rows, Tiling


def _products(x: Float[Array, "B D"], y: Float[Array, "N D"]) -> Float[Array, "B N"]:
    return jnp.matmul(x.astype(jnp.float32), y.astype(jnp.float32).T, precision="highest")


def _pairs(
    rows: Rows, cols: Cols, kind: Reduction, tiling: Tiling
) -> tuple[Bool[Array, "B N"], Bool[Array, "B N"]]:
    """The pairs that a reduction takes for anchors, and those for keys."""
    anchors = jax.tree.map(lambda fact: fact[:, None], rows.ids)
    keys = jax.tree.map(lambda fact: fact[None, :], cols.ids)
    taken = pairs_over(anchors, keys, kind.over, one_side=tiling.one_side)
    if not kind.guided or rows.guide is None or cols.guide is None:
        return taken, taken
    seen = _products(rows.guide.vectors, cols.guide.vectors)
    return taken & (seen <= rows.guide.limit[:, None]), taken & (seen <= cols.guide.limit[None, :])


def _scores(cosines: Float[Array, "B N"], scale: Array, bias: Array | None) -> Array:
    return scale * cosines + (0.0 if bias is None else bias[None, :])


def forward(rows: Rows, cols: Cols, scales: Float[Array, "S"], tiling: Tiling) -> PairStats:
    """`PairStats` of all pairs at once; see `simjax.ops.reduce_pairs`."""
    cosines = _products(rows.x, cols.y)

    def one(scores: Array, mask: Array, axis: int, kind: Reduction) -> Array:
        if kind.kind == "softplus":
            return jnp.where(mask, jax.nn.softplus(scores), 0.0).sum(axis=axis)
        return _lse(jnp.where(mask, scores, -jnp.inf), axis)

    by_row, by_col, counts = [], [], []
    for kind, scale, bias in zip(tiling.reductions, scales, cols.biases, strict=True):
        scores = _scores(cosines, scale, bias)
        for_rows, for_cols = _pairs(rows, cols, kind, tiling)
        by_row.append(one(scores, for_rows, 1, kind))
        by_col.append(one(scores, for_cols, 0, kind) if kind.columns else None)
        counts.append(for_rows.sum(axis=1, dtype=jnp.float32) if kind.counted else None)
    first, _ = _pairs(rows, cols, tiling.reductions[0], tiling)
    hardest = jnp.where(first, cosines, -jnp.inf).max(axis=1)
    return PairStats(tuple(by_row), tuple(by_col), tuple(counts), hardest)


def _lse(scores: Float[Array, "B N"], axis: int) -> Float[Array, "M"]:
    top = scores.max(axis=axis, keepdims=True)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    return jnp.log(jnp.exp(scores - top).sum(axis=axis)) + jnp.squeeze(top, axis)


def backward(
    rows: Rows,
    cols: Cols,
    scales: Float[Array, "S"],
    stats: PairStats,
    grads: PairStats,
    tiling: Tiling,
) -> Gradients:
    """Gradients of anchors, keys, scales and biases.

    With w_ij = g_row_i softmax_row(s)_ij + g_col_j softmax_col(s)_ij for a log-sum-exp, or
    (g_row_i + g_col_j) sigmoid(s_ij) for a sum of softplus, and s = scale x . y + bias::

        d x = scale w y     d y = scale w^T x     d scale = sum_ij w_ij x_i . y_j
        d bias_j = sum_i w_ij

    each summed over the reductions that share x and y.
    """
    cosines = _products(rows.x, cols.y)
    total, d_scales = jnp.zeros_like(cosines), jnp.zeros_like(scales)
    d_biases: list[Array | None] = []
    for k, kind in enumerate(tiling.reductions):
        bias = cols.biases[k]
        scores = _scores(cosines, scales[k], bias)
        weight = jnp.zeros_like(cosines)
        values = (stats.rows[k], stats.cols[k])
        for axis, mask in enumerate(_pairs(rows, cols, kind, tiling)):
            value, grad = values[axis], (grads.rows[k], grads.cols[k])[axis]
            if value is None or grad is None or not kind.gradient:
                continue
            if kind.kind == "softplus":
                share = jax.nn.sigmoid(scores)
            else:
                share = jnp.exp(scores - jnp.expand_dims(_zero_for_none(value), 1 - axis))
            weight += jnp.where(mask, jnp.expand_dims(grad, 1 - axis) * share, 0.0)
        total += scales[k] * weight
        d_scales = d_scales.at[k].set((weight * cosines).sum())
        biased = bias is not None and kind.gradient
        d_biases.append(weight.sum(axis=0) if biased else None)
    d_x = jnp.matmul(total, cols.y.astype(jnp.float32), precision="highest")
    d_y = jnp.matmul(total.T, rows.x.astype(jnp.float32), precision="highest")
    return Gradients(d_x, d_y, d_scales, tuple(d_biases))


def _zero_for_none(lse: Float[Array, "M"]) -> Float[Array, "M"]:
    return jnp.where(jnp.isfinite(lse), lse, 0.0)
