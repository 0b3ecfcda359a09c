"""The operator as dense float32 matrices, forward and backward written out by hand.

The oracle for every other implementation: B x N in memory, no tiles, no tricks.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from simjax.ops.pairs import AnchorIds, KeyIds, PairStats, Reductions, negatives, spread_pairs
from simjax.ops.pairs import potential as pair_potential


def _scores(anchors: Float[Array, "B D"], keys: Float[Array, "N D"]) -> Float[Array, "B N"]:
    return jnp.matmul(anchors.astype(jnp.float32), keys.astype(jnp.float32).T, precision="highest")


def forward(
    anchors: Float[Array, "B D"],
    keys: Float[Array, "N D"],
    scale: Float[Array, ""],
    anchor_ids: AnchorIds,
    key_ids: KeyIds,
    static: Reductions,
) -> PairStats:
    """`PairStats` of all pairs at once; see `simjax.ops.pair_lse`."""
    cosines = _scores(anchors, keys)
    mask = negatives(anchor_ids, key_ids, static)
    logits = jnp.where(mask, scale * cosines, -jnp.inf)
    spread = spread_pairs(anchor_ids, key_ids)
    return PairStats(
        row=_lse(logits, 1),
        col=_lse(logits, 0) if static.columns else None,
        row_max=jnp.where(mask, cosines, -jnp.inf).max(axis=1),
        potential=jnp.where(spread, pair_potential(cosines, static.t), 0.0).sum(),
        pairs=spread.sum(dtype=jnp.float32),
    )


def _lse(logits: Float[Array, "B N"], axis: int) -> Float[Array, "M"]:
    top = logits.max(axis=axis, keepdims=True)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    return jnp.log(jnp.exp(logits - top).sum(axis=axis)) + jnp.squeeze(top, axis)


def backward(
    anchors: Float[Array, "B D"],
    keys: Float[Array, "N D"],
    scale: Float[Array, ""],
    anchor_ids: AnchorIds,
    key_ids: KeyIds,
    stats: PairStats,
    g_row: Float[Array, "B"],
    g_col: Float[Array, "N"] | None,
    static: Reductions,
) -> tuple[Float[Array, "B D"], Float[Array, "N D"], Float[Array, ""]]:
    """Gradients of anchors, keys and scale.

    With w_ij = g_row_i softmax_row(s)_ij + g_col_j softmax_col(s)_ij and s = scale x . y::

        d x = scale w y     d y = scale w^T x     d scale = sum_ij w_ij x_i . y_j
    """
    cosines = _scores(anchors, keys)
    mask = negatives(anchor_ids, key_ids, static)
    logits = scale * cosines

    def softmax(lse: Float[Array, "M"], axis: int) -> Float[Array, "B N"]:
        lse = jnp.where(jnp.isfinite(lse), lse, 0.0)
        return jnp.where(mask, jnp.exp(logits - jnp.expand_dims(lse, axis)), 0.0)

    weight = g_row[:, None] * softmax(stats.row, 1)
    if stats.col is not None and g_col is not None:
        weight += g_col[None, :] * softmax(stats.col, 0)
    d_anchors = scale * jnp.matmul(weight, keys.astype(jnp.float32), precision="highest")
    d_keys = scale * jnp.matmul(weight.T, anchors.astype(jnp.float32), precision="highest")
    return d_anchors, d_keys, (weight * cosines).sum()
