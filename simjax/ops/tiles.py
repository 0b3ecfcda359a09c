"""How pairs are cut into tiles, what is reduced from one, and how one pulls back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simjax.mesh import Tree
from simjax.ops.operands import product
from simjax.ops.pairs import ABSENT, Ids
from simjax.ops.reductions import (
    Factor,
    Guided,
    Masks,
    PairStats,
    Reduction,
    Sums,
    factor,
    masks,
    terms,
    weights,
)


@dataclass(frozen=True)
class Tiling:
    """The static choices that every implementation follows.

    Attributes:
        reductions: `Reduction.static` of each.
        one_side: Anchors and keys are of one kind; see `simjax.ops.pairs.negatives`.
        tile: Anchors and keys of a tile, or of a strip; None lets the implementation choose.
        on_gpu: For a GPU, which is idle between small products; a core's cache asks for them.
    """

    reductions: tuple[Reduction, ...]
    one_side: bool
    tile: tuple[int, int] | None = None
    on_gpu: bool = False

    def shaped(
        self, choose: Callable[[int, int, bool], tuple[int, int]], anchors: int, keys: int
    ) -> Tiling:
        """With a tile: the one asked for, or what suits so many anchors and keys."""
        return self if self.tile else replace(self, tile=choose(anchors, keys, self.on_gpu))

    @property
    def rows(self) -> int:
        """Anchors of a tile."""
        assert self.tile is not None  # shaped
        return self.tile[0]

    @property
    def cols(self) -> int:
        """Keys of a tile."""
        assert self.tile is not None  # shaped
        return self.tile[1]

    @property
    def differentiable(self) -> tuple[int, ...]:
        """The reductions that have gradients."""
        return tuple(k for k, kind in enumerate(self.reductions) if kind.gradient)


def even(n: int, most: int) -> int:
    """The size, at most ``most``, of tiles that divide ``n`` with little padding."""
    tiles = max(1, math.ceil(n / most))
    return math.ceil(n / tiles / 8) * 8


class Sight(NamedTuple):
    """A guide's unit vectors of one side, and how alike a negative may be; see `Guide`."""

    vectors: Float[Array, "M G"]
    limit: Float[Array, "M"]


class Rows(NamedTuple):
    """Anchors and what is known of them: all, cut into tiles, or of one tile."""

    x: Float[Array, "B D"]
    ids: Ids
    guide: Sight | None


class Cols(NamedTuple):
    """Keys and what is known of them, likewise; of the reductions' biases those that there are."""

    y: Float[Array, "N D"]
    ids: Ids
    guide: Sight | None
    biases: tuple[Float[Array, "N"] | None, ...]


def split(tree: Tree, size: int) -> Tree:
    """Tiles of ``size``: [I, R, ...] of any arrays [B, ...]."""
    return jax.tree.map(lambda x: _padded(x, size).reshape(-1, size, *x.shape[1:]), tree)


def cut_rows(tree: Tree, size: int) -> Tree:
    """Tiles of ``size`` anchors: [I, R, D] of vectors, [I, R, 1] of facts."""
    return split(jax.tree.map(lambda x: x if x.ndim > 1 else x[:, None], tree), size)


def cut_cols(tree: Tree, size: int) -> Tree:
    """Tiles of ``size`` keys: [J, C, D] of vectors, [J, 1, C] of facts."""
    return jax.tree.map(lambda x: x if x.ndim > 2 else x[:, None, :], split(tree, size))


def _padded(x: Array, size: int) -> Array:
    """To whole tiles: `ABSENT` in whole numbers, else 0."""
    fill = ABSENT if jnp.issubdtype(x.dtype, jnp.integer) else 0
    padding = [(0, -x.shape[0] % size)] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, padding, constant_values=fill)


def join(tree: Tree, length: int) -> Tree:
    """The inverse of `split`."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:length], tree)


def join_facts(tree: Tree, length: int) -> Tree:
    """The inverse of `cut_rows` and `cut_cols` for facts."""
    return jax.tree.map(lambda x: x.reshape(-1)[:length], tree)


class Tile(NamedTuple):
    """The cosines of some anchors with some keys, and what each reduction takes of them."""

    cosines: Float[Array, "R C"]
    masks: tuple[Masks, ...]
    biases: tuple[Float[Array, "1 C"] | None, ...]


def make_tile(row: Rows, col: Cols, tiling: Tiling) -> Tile:
    """The tile of some anchors and some keys."""
    guided = None
    if row.guide is not None and col.guide is not None:
        seen = product(row.guide.vectors, col.guide.vectors, (1, 1))
        guided = Guided(seen, row.guide.limit, col.guide.limit)
    taken = (
        masks(row.ids, col.ids, guided, kind, one_side=tiling.one_side)
        for kind in tiling.reductions
    )
    return Tile(product(row.x, col.y, (1, 1)), tuple(taken), col.biases)


class RowSums(NamedTuple):
    """What is reduced for each anchor.

    Attributes:
        sums: Of each reduction.
        counts: Pairs of each reduction that counts them.
        max: Largest cosine of a pair of the first reduction, -inf of none.
    """

    sums: tuple[Sums, ...]
    counts: tuple[Float[Array, "R"] | None, ...]
    max: Float[Array, "R"]

    @classmethod
    def empty(cls, shape: tuple[int, ...], tiling: Tiling) -> RowSums:
        """Of no pairs."""
        zero = jnp.zeros(shape, jnp.float32)
        return cls(
            tuple(Sums.empty(shape, kind) for kind in tiling.reductions),
            tuple(zero if kind.counted else None for kind in tiling.reductions),
            zero - jnp.inf,
        )

    def merge(self, other: RowSums) -> RowSums:
        """With the sums of other pairs of the same anchors."""
        counts = jax.tree.map(jnp.add, self.counts, other.counts)
        return RowSums(merge(self.sums, other.sums), counts, jnp.maximum(self.max, other.max))


ColSums = tuple[Sums | None, ...]
"""What is reduced for each key, of the reductions that reduce columns."""


def no_columns(shape: tuple[int, ...], tiling: Tiling) -> ColSums:
    """Of no pairs."""
    return tuple(Sums.empty(shape, kind) if kind.columns else None for kind in tiling.reductions)


def merge(ours: tuple[Sums | None, ...], others: tuple[Sums | None, ...]) -> tuple:
    """Sums of the same anchors or keys over different pairs, taken together."""
    both = zip(ours, others, strict=True)
    return tuple(None if a is None or b is None else a.merge(b) for a, b in both)


def add_tile(
    row_sums: RowSums, col_sums: ColSums, tile: Tile, scales: Array, tiling: Tiling
) -> tuple[RowSums, ColSums]:
    """The sums of the rows and columns of one more tile."""
    sums, counts, columns = [], [], []
    for k, kind in enumerate(tiling.reductions):
        mask, count, column = tile.masks[k], row_sums.counts[k], col_sums[k]
        taken = terms(tile.cosines, scales[k], tile.biases[k], kind)
        by_row = jnp.where(mask.row, taken, kind.nothing)
        sums.append(row_sums.sums[k].add(by_row, 1))
        if count is not None:
            count = count + mask.row.sum(axis=1, keepdims=True, dtype=jnp.float32)
        counts.append(count)
        if column is not None:
            same = mask.col is mask.row
            column = column.add(by_row if same else jnp.where(mask.col, taken, kind.nothing), 0)
        columns.append(column)
    hardest = jnp.where(tile.masks[0].row, tile.cosines, -jnp.inf).max(axis=1, keepdims=True)
    found = RowSums(tuple(sums), tuple(counts), jnp.maximum(row_sums.max, hardest))
    return found, tuple(columns)


def finish(sums: RowSums, columns: ColSums, tiling: Tiling) -> PairStats:
    """The results of complete sums."""
    kinds = tiling.reductions
    return PairStats(
        tuple(s.value(kind) for s, kind in zip(sums.sums, kinds, strict=True)),
        tuple(None if s is None else s.value(kind) for s, kind in zip(columns, kinds, strict=True)),
        sums.counts,
        sums.max,
    )


class Factors(NamedTuple):
    """What weights the terms of rows and columns, in the order of `Tiling.differentiable`.

    Attributes:
        rows: For each anchor.
        cols: For each key, None of reductions of rows alone.
    """

    rows: tuple[Factor, ...]
    cols: tuple[Factor | None, ...]

    @classmethod
    def of(cls, stats: PairStats, grads: PairStats, scales: Array, tiling: Tiling) -> Factors:
        """From the results and their cotangents."""
        rows: list[Factor] = []
        cols: list[Factor | None] = []
        for k in tiling.differentiable:
            kind, col, g_col = tiling.reductions[k], stats.cols[k], grads.cols[k]
            rows.append(factor(stats.rows[k], grads.rows[k], scales[k], kind))
            if col is None or g_col is None:
                cols.append(None)
            else:
                cols.append(factor(col, g_col, scales[k], kind))
        return cls(tuple(rows), tuple(cols))


class Shares(NamedTuple):
    """Sums of a tile's weights that scales and biases get gradients from.

    Attributes:
        scales: sum_j w_ij x_i . y_j by each reduction, or nothing where there is only one, whose
            sum is in the anchors' gradients already.
        biases: sum_i w_ij by each reduction that has a bias.
    """

    scales: tuple[Float[Array, "R"], ...]
    biases: tuple[Float[Array, "C"] | None, ...]

    @classmethod
    def empty(
        cls, rows: tuple[int, ...], cols: tuple[int, ...], biases: tuple, tiling: Tiling
    ) -> Shares:
        """Of no tile."""
        kinds = tiling.differentiable
        return cls(
            tuple(jnp.zeros(rows, jnp.float32) for _ in (kinds if len(kinds) > 1 else ())),
            tuple(None if biases[k] is None else jnp.zeros(cols, jnp.float32) for k in kinds),
        )


def pull_back_tile(
    tile: Tile, factors: Factors, shares: Shares, scales: Array, tiling: Tiling
) -> tuple[Float[Array, "R C"], Shares]:
    """Gradients of the cosines of a tile, and what it adds to those of scales and biases."""
    found = []
    for k, row, col in zip(tiling.differentiable, *factors, strict=True):
        kind, mask, bias = tiling.reductions[k], tile.masks[k], tile.biases[k]
        found.append(weights(tile.cosines, mask, scales[k], bias, row, col, kind))
    by_scale = [w * tile.cosines for w in found[: len(shares.scales)]]
    added = Shares(
        tuple(
            share + weighted.sum(axis=1, keepdims=True)
            for share, weighted in zip(shares.scales, by_scale, strict=True)
        ),
        tuple(
            None if share is None else share + weight.sum(axis=0, keepdims=True)
            for share, weight in zip(shares.biases, found, strict=True)
        ),
    )
    return sum(found[1:], found[0]), added


class Gradients(NamedTuple):
    """What comes back to anchors, keys, scales and biases, in float32.

    Attributes:
        x: Of the anchors.
        y: Of the keys.
        scales: Of all reductions, 0 of those without gradient.
        biases: Of the differentiable reductions that have one.
    """

    x: Float[Array, "B D"]
    y: Float[Array, "N D"]
    scales: Float[Array, "S"]
    biases: tuple[Float[Array, "N"] | None, ...]

    @classmethod
    def of(
        cls,
        x: Array,
        y: Array,
        shares: Shares,
        rows: Rows,
        cols: Cols,
        scales: Array,
        tiling: Tiling,
    ) -> Gradients:
        """From the vectors' gradients and the shares of all tiles."""
        d_scales = jnp.zeros_like(scales)
        # sum_ij w_ij x_i . y_j, in which the scale is a factor: x holds sum_j w_ij y_j.
        sums = [s.sum() for s in shares.scales] or [(rows.x.astype(jnp.float32) * x).sum()]
        biases: list[Array | None] = [None for _ in cols.biases]
        for k, total, share in zip(tiling.differentiable, sums, shares.biases, strict=True):
            d_scales = d_scales.at[k].set(total / scales[k])
            biases[k] = None if share is None else share / scales[k]
        return cls(x, y, d_scales, tuple(biases))
