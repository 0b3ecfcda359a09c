"""The operator across devices without gathered keys: they go round, and come home.

Each of ``n`` devices holds its own anchors and, in turn, the keys of every device: memory is
O(B D / n + tile) where gathered keys and their gradients take O(B D). What belongs to the keys
travels with them, the sums of their columns forward and their gradients backward, and is complete
when it is home again. Vectors are sent on before they are used and gradients arrive after the
products that they are added to, so that transfers and products overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simjax.mesh import vary_like
from simjax.ops.sharded import num_shards, pass_on
from simjax.ops.tiles import (
    Cols,
    ColSums,
    Factors,
    Gradients,
    Rows,
    RowSums,
    Tiling,
    merge,
    no_columns,
)

Reduce: TypeAlias = Callable[[Rows, Cols, Array, Tiling], tuple[RowSums, ColSums]]
"""`simjax.ops.tiled.reduce`, or a kernel that does the same."""

PullBack: TypeAlias = Callable[[Rows, Cols, Factors, Array, Tiling], Gradients]
"""`simjax.ops.tiled.pull_back`, or a kernel that does the same."""


def reduce(
    here: Reduce, rows: Rows, cols: Cols, scales: Float[Array, "S"], tiling: Tiling
) -> tuple[RowSums, ColSums]:
    """What ``here`` reduces, for this device's anchors over all keys, and for its keys."""

    def turn(carry: tuple, _: None) -> tuple[tuple, None]:
        cols, columns, sums = carry
        coming = pass_on(cols, rows.x)
        more, more_columns = here(rows, cols, scales, tiling)
        columns = pass_on(merge(columns, more_columns), rows.x)
        return (coming, columns, sums.merge(more)), None

    nothing = no_columns((len(cols.y),), tiling), RowSums.empty((len(rows.x),), tiling)
    start = (cols, *vary_like(nothing, rows.x))
    (_, columns, sums), _ = jax.lax.scan(turn, start, length=num_shards(rows.x))
    return sums, columns


def pull_back(
    here: PullBack,
    rows: Rows,
    cols: Cols,
    factors: Factors,
    scales: Float[Array, "S"],
    tiling: Tiling,
) -> Gradients:
    """The gradients that ``here`` gives, of this device's anchors and keys over all pairs."""

    def turn(carry: tuple, _: None) -> tuple[tuple, None]:
        (cols, by_col), home, (d_x, d_scales) = carry
        coming, arrived = pass_on(((cols, by_col), home), rows.x)
        grads = here(rows, cols, Factors(factors.rows, by_col), scales, tiling)
        home = jax.tree.map(jnp.add, arrived, (grads.y, grads.biases))
        return (coming, home, (d_x + grads.x, d_scales + grads.scales)), None

    biases = tuple(
        bias if kind.gradient else None
        for bias, kind in zip(cols.biases, tiling.reductions, strict=True)
    )
    d_keys = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (cols.y, biases))
    own = (jnp.zeros(rows.x.shape, jnp.float32), jnp.zeros_like(scales))
    start = ((cols, factors.cols), *vary_like((d_keys, own), rows.x))
    (_, home, (d_x, d_scales)), _ = jax.lax.scan(turn, start, length=num_shards(rows.x))
    # The gradients of a device's keys were last added to by the one before it.
    d_y, d_biases = pass_on(home, rows.x)
    return Gradients(d_x, d_y, d_scales, d_biases)
