"""One tile of scores: how pairs are cut into tiles, and what is reduced from each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from simjax.mesh import Tree, vary_like
from simjax.ops.operands import in_order, product
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


def even(n: int, most: int) -> int:
    """The size, at most ``most``, of tiles that divide ``n`` with little padding."""
    tiles = max(1, math.ceil(n / most))
    return math.ceil(n / tiles / 8) * 8


class Rows(NamedTuple):
    """Anchors and their ids, cut into tiles: [tiles, rows, ...]."""

    x: Float[Array, "I R D"]
    ids: AnchorIds


class Cols(NamedTuple):
    """Keys and their ids, cut into tiles: [tiles, columns, ...]."""

    y: Float[Array, "J C D"]
    ids: KeyIds


def cut(tree: Tree, size: int) -> Tree:
    """Pads whole numbers with `ABSENT` and others with 0, and cuts into tiles of ``size``."""

    def one(x: Array) -> Array:
        padding = -x.shape[0] % size
        fill = ABSENT if jnp.issubdtype(x.dtype, jnp.integer) else 0
        x = jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1), constant_values=fill)
        return x.reshape(-1, size, *x.shape[1:])

    return jax.tree.map(one, tree)


class Sums(NamedTuple):
    """Running log-sum-exp: sum of exp(s - top). With a bounded scale `top` is never touched."""

    total: Float[Array, "..."]
    top: Float[Array, "..."]

    @classmethod
    def empty(cls, shape: tuple[int, ...], tiling: Tiling) -> Sums:
        """Of no pairs."""
        top = tiling.max_scale if tiling.bounded else -jnp.inf
        return cls(jnp.zeros(shape, jnp.float32), jnp.full(shape, top, jnp.float32))

    def add(self, terms: Float[Array, "R C"], axis: int, tiling: Tiling) -> Sums:
        """With the `terms` of a tile, reduced along ``axis``."""
        if tiling.bounded:
            return self._replace(total=self.total + terms.sum(axis=axis))
        top = jnp.maximum(self.top, terms.max(axis=axis))
        safe = jnp.where(jnp.isfinite(top), top, 0.0)
        old = jnp.where(jnp.isfinite(self.top), jnp.exp(self.top - safe), 0.0)
        new = jnp.exp(terms - jnp.expand_dims(safe, axis)).sum(axis=axis)
        return Sums(self.total * old + new, top)

    def lse(self) -> Float[Array, "..."]:
        """The log-sum-exp, -inf of no pairs."""
        # Unlike > 0, this keeps the NaN of an embedding that is no number.
        return jnp.where(self.total != 0, jnp.log(self.total) + self.top, -jnp.inf)


def terms(
    cosines: Float[Array, "R C"], mask: Bool[Array, "R C"], scale: Array, tiling: Tiling
) -> Float[Array, "R C"]:
    """What a tile is summed and weighted by: exp(s - max_scale) if bounded, else the logits s."""
    if tiling.bounded:
        return jnp.where(mask, jnp.exp(scale * cosines - tiling.max_scale), 0.0)
    return jnp.where(mask, scale * cosines, -jnp.inf)


class RowSums(NamedTuple):
    """What is reduced along the rows of tiles."""

    sums: Sums
    max: Float[Array, "R"]
    potential: Float[Array, "R"]
    pairs: Float[Array, "R"]

    @classmethod
    def empty(cls, rows: Rows, tiling: Tiling) -> RowSums:
        """Of no pairs, varying over devices as the anchors do."""
        shape = rows.x.shape[:-1]
        zero = jnp.zeros(shape, jnp.float32)
        start = cls(Sums.empty(shape, tiling), zero - jnp.inf, zero, zero)
        return vary_like(start, rows.x)

    def add(
        self, row: Rows, key: Cols, scale: Array, tiling: Tiling
    ) -> tuple[RowSums, Float[Array, "R C"]]:
        """With one more tile, and its `terms`."""
        cosines = product(row.x, key.y, (1, 1))
        mask = negatives(row.ids, key.ids, tiling)
        tile = terms(cosines, mask, scale, tiling)
        apart = spread_pairs(row.ids, key.ids)
        spread = jnp.where(apart, potential(cosines, tiling.t), 0.0)
        added = RowSums(
            sums=self.sums.add(tile, 1, tiling),
            max=jnp.maximum(self.max, jnp.where(mask, cosines, -jnp.inf).max(axis=1)),
            potential=self.potential + spread.sum(axis=1),
            pairs=self.pairs + apart.sum(axis=1, dtype=jnp.float32),
        )
        return added, tile

    def stats(self, num_anchors: int, col: Float[Array, "N"] | None) -> PairStats:
        """Of all tiles, [tiles, rows]."""
        return PairStats(
            row=self.sums.lse().reshape(-1)[:num_anchors],
            col=col,
            row_max=self.max.reshape(-1)[:num_anchors],
            potential=self.potential.sum(),
            pairs=self.pairs.sum(),
        )


def join_gradients(
    d_rows: Float[Array, "I R D"],
    d_cols: Float[Array, "J D C"],
    anchors: Float[Array, "B D"],
    num_keys: int,
    scale: Float[Array, ""],
) -> tuple[Float[Array, "B D"], Float[Array, "N D"], Float[Array, ""]]:
    """Gradients of anchors, keys and scale from those of tiles, in which the scale is a factor."""
    width = anchors.shape[1]
    by_row = d_rows.reshape(-1, width)[: anchors.shape[0]]
    by_key = in_order(d_cols).swapaxes(1, 2).reshape(-1, width)[:num_keys]
    # sum_ij w_ij x_i . y_j is already there: by_row holds scale sum_j w_ij y_j.
    return by_row, by_key, (anchors.astype(jnp.float32) * by_row).sum() / scale


Factors: TypeAlias = tuple[Float[Array, "..."], Float[Array, "..."]]
"""Log-sum-exps, and what weights the terms of their rows or columns; see `finite`."""


def finite(
    lse: Float[Array, "M"], grad: Float[Array, "M"], scale: Array, tiling: Tiling
) -> Factors:
    """Log-sum-exps without -inf, and factors that make gradients of a tile's `terms`.

    The gradient of a cosine is the factor times the term if bounded, where one exponential serves
    rows and columns (softmax = exp(s - max) exp(max - lse)), else times exp(term - lse). It is
    zero where there was nothing to sum.
    """
    some = lse != -jnp.inf
    # The scale goes in here, where it multiplies vectors and not gradients of [N, D].
    factor = jnp.where(some, scale * grad, 0.0)
    if tiling.bounded:
        factor = factor * jnp.exp(tiling.max_scale - jnp.where(some, lse, tiling.max_scale))
    return jnp.where(some, lse, 0.0), factor


def cut_factors(
    stats: PairStats,
    g_row: Float[Array, "B"],
    g_col: Float[Array, "N"] | None,
    scale: Array,
    tiling: Tiling,
) -> tuple[Factors, Factors | None]:
    """What `finite` makes of rows, and of columns if they have gradients, cut into tiles."""
    by_row = cut(finite(stats.row, g_row, scale, tiling), tiling.rows)
    if stats.col is None or g_col is None:
        return by_row, None
    return by_row, cut(finite(stats.col, g_col, scale, tiling), tiling.cols)
