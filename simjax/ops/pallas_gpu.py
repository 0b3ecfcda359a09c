"""The operator in kernels for Hopper GPUs: bfloat16 operands, float32 sums.

Forward, one kernel makes each tile of cosines in registers and reduces it there: nothing of size
B N is written. Backward, the same kernel makes the weights of some thousand anchors and keys, in
the operands' type, and the compiler's own products take them to both sides' gradients::

    value      2 B N D operations    in the kernel
    weights    2 B N D               in the kernel, which writes 2 bytes a pair
    d x, d y   4 B N D               in the compiler's products, which read them twice

A kernel that kept d x [128, 768] beside a tile would need more registers than there are, and one
for each side would make the cosines once more: ten parts of products instead of eight. The weights
of a strip cost 6 bytes a pair of memory traffic against 6 D operations, a fifth of what H100's
memory allows at D = 768, and their products are as fast as any.

What bounds the kernel, from H100's figures at D = 768: a tile of 256 x 128 is 12,288 cycles of
the tensor cores and about 3,100 cycles of 12 instructions a pair (ids masks and one exponential;
counted in the PTX), which overlap as far as the two warpgroups drift apart, up to the stages'
length. It reads 48 bytes a cycle from the L2 cache at full speed, which is more than the 24 to 32
that it gives: `hopper.CLUSTER` = 2 halves the anchors' part (32 bytes). There is one thread block
to a multiprocessor. Partial sums take 4 B N / 128 bytes a number of columns, and less of rows.

None of this has run on a GPU. The numbers are proven in Pallas' interpreter, but for how arrays
lie in registers and shared memory; that they compile for sm_90a, fit into shared memory and spill
few registers or none is seen ahead of time. Speed, and that no barrier is waited for in vain, are
not known; in clusters not even by the interpreter.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from simjax.mesh import Tree, vary_like
from simjax.ops import hopper
from simjax.ops.hopper import LANE, Outputs, Sweep
from simjax.ops.operands import product
from simjax.ops.pairs import Ids, pairs_over
from simjax.ops.reductions import Factor, Masks, Reduction, Sums, logits, settled, terms, weights
from simjax.ops.registers import Lay, Part, along, columns_of
from simjax.ops.tiles import (
    Cols,
    ColSums,
    Factors,
    Gradients,
    Rows,
    RowSums,
    Shares,
    Tiling,
    even,
    join,
    no_columns,
    split,
)

MOST_NUMBERS = 8
"""Numbers of a row, or of a column, that a kernel keeps: registers bound them."""

MOST_OTHERS = 4
"""Positives of an anchor, or partners of a key, that a kernel compares."""

STRIP = (8192, 16384)
"""Anchors and keys whose weights are in memory at one time in the backward pass: 256 MiB."""


class _OfRows(NamedTuple):
    """What a sweep is told of each anchor."""

    ids: Ids
    factors: tuple[Factor, ...]


class _OfCols(NamedTuple):
    """What a sweep is told of each key."""

    ids: Ids
    biases: tuple[Float[Array, "N"] | None, ...]
    factors: tuple[Factor | None, ...]


def supports(rows: Rows, cols: Cols, tiling: Tiling) -> bool:
    """Whether the kernels serve these operands and reductions; shapes and types alone count."""
    numbers = (len(jax.tree.leaves(sums)) for sums in _kept(tiling))
    others = max(len(rows.ids.others), len(cols.ids.others))
    return (
        rows.x.dtype == cols.y.dtype == jnp.bfloat16
        and min(rows.x.size, cols.y.size) > 0
        and not any(kind.guided for kind in tiling.reductions)
        and max(numbers) <= MOST_NUMBERS
        and others <= MOST_OTHERS
    )


def reduce(
    rows: Rows,
    cols: Cols,
    scales: Float[Array, "S"],
    tiling: Tiling,
    *,
    interpret: bool = False,
) -> tuple[RowSums, ColSums]:
    """What is reduced for each anchor and for each key; see `tiled.reduce`."""
    num_anchors, num_keys = len(rows.x), len(cols.y)
    shape = Sweep.of(num_anchors, num_keys, rows.x.shape[1], interpret=interpret)
    x, y, row, col = _operands(rows, cols, shape)
    of_rows, of_cols = _facts(row, col)
    kept = _kept(tiling)
    structure = [jax.tree.structure(sums) for sums in kept]
    num_of_row, num_of_col = (len(jax.tree.leaves(sums)) for sums in kept)

    def start(lay: Lay) -> RowSums:
        empty = jax.eval_shape(lambda: RowSums.empty((hopper.ROWS, LANE), tiling))
        zero, lowest = (lay.full(empty.max.shape, value) for value in (0.0, -jnp.inf))
        sums = tuple(Sums(zero, None if s.top is None else lowest) for s in empty.sums)
        return RowSums(sums, tuple(None if c is None else zero for c in empty.counts), lowest)

    def add(part: Part, sums: RowSums) -> tuple[RowSums, list[Array], None]:
        taken, biases = _masks(part, tiling), part.cols.biases
        by_row, counts, found = [], [], []
        for k, kind in enumerate(tiling.reductions):
            mask = taken[k]
            term = _terms(part.cosines, part.scales[k], biases[k], kind)
            term = jnp.where(mask, term, kind.nothing)
            by_row.append(_add(sums.sums[k], columns_of(term, LANE)))
            count = sums.counts[k]
            if count is not None:
                count = sum(columns_of(jnp.where(mask, 1.0, jnp.zeros_like(term)), LANE), count)
            counts.append(count)
            if kind.columns:
                found += _over_rows(term, kind, part)
        largest = sums.max
        for some in columns_of(jnp.where(taken[0], part.cosines, -jnp.inf), LANE):
            largest = jnp.maximum(largest, some)
        return RowSums(tuple(by_row), tuple(counts), largest), found, None

    def end(sums: RowSums) -> list[Array]:
        return jax.tree.leaves(_collapsed(sums, 1))

    by_row, by_col, _ = hopper.sweep(
        *(x, y, of_rows, of_cols, scales),
        shape,
        Outputs(num_of_row, num_of_col, weights=False),
        start=start,
        reduce=add,
        end=end,
    )
    assert by_row is not None
    row_sums = jax.tree.unflatten(structure[0], list(by_row.swapaxes(0, 1)))
    found = [] if by_col is None else list(by_col.swapaxes(0, 1))
    col_sums = jax.tree.unflatten(structure[1], found)
    columns = tuple(None if s is None else _collapse(s, 0) for s in col_sums)
    return (
        jax.tree.map(lambda v: v[:num_anchors], _collapsed(row_sums, 0)),
        jax.tree.map(lambda v: v[:num_keys], columns),
    )


def pull_back(
    rows: Rows,
    cols: Cols,
    factors: Factors,
    scales: Float[Array, "S"],
    tiling: Tiling,
    *,
    interpret: bool = False,
) -> Gradients:
    """Gradients, some thousand anchors and keys at a time; see `tiled.pull_back`."""
    whole = rows, cols
    num_rows, num_cols = (even(len(v), m) for v, m in zip((rows.x, cols.y), STRIP, strict=True))
    rows, by_row = split((rows, factors.rows), num_rows)
    cols, by_col = split((cols, factors.cols), num_cols)

    def strip(carry: tuple, of_row: tuple) -> tuple[tuple, tuple]:
        row, by_row = of_row

        def one(carry: tuple, of_col: tuple) -> tuple[tuple, Any]:
            d_row, d_scales, d_cols = carry
            j, col, by_col, d_biases = of_col
            weight, shares = _weights(
                row, col, Factors(by_row, by_col), scales, tiling, interpret=interpret
            )
            x, y = _padded(row.x, len(weight)), _padded(col.y, weight.shape[1])
            d_row += product(weight, y, (1, 0))[:num_rows]
            d_cols = d_cols.at[j].add(product(weight, x, (0, 0))[:num_cols])
            shares = jax.tree.map(jnp.add, Shares(d_scales, d_biases), shares)
            return (d_row, shares.scales, d_cols), shares.biases

        d_cols, d_biases = carry
        start = vary_like((jnp.zeros(row.x.shape, jnp.float32), nothing.scales), row.x)
        of_cols = (jnp.arange(len(cols.y)), cols, by_col, d_biases)
        (d_row, d_scales, d_cols), d_biases = lax.scan(one, (*start, d_cols), of_cols)
        return (d_cols, d_biases), (d_row, d_scales)

    nothing = Shares.empty((num_rows,), cols.y.shape[:2], cols.biases, tiling)
    start = vary_like((jnp.zeros(cols.y.shape, jnp.float32), nothing.biases), rows.x)
    (d_cols, d_biases), (d_rows, d_scales) = lax.scan(strip, start, (rows, by_row))
    d_x, d_y = join(d_rows, len(whole[0].x)), join(d_cols, len(whole[1].y))
    shares = Shares(d_scales, join(d_biases, len(whole[1].y)))
    return Gradients.of(d_x, d_y, shares, *whole, scales, tiling)


def _weights(
    rows: Rows,
    cols: Cols,
    factors: Factors,
    scales: Float[Array, "S"],
    tiling: Tiling,
    *,
    interpret: bool,
) -> tuple[Float[Array, "R C"], Shares]:
    """Gradients of the cosines of some anchors with some keys, in the operands' type.

    They are padded with zeros, as they leave the kernel: to cut them would be to copy them.
    """
    num_rows, num_cols = len(rows.x), len(cols.y)
    shape = Sweep.of(num_rows, num_cols, rows.x.shape[1], interpret=interpret)
    x, y, row, col = _operands(rows, cols, shape)
    factors = Factors(_padded(factors.rows, len(x)), _padded(factors.cols, y.shape[1]))
    of_rows, of_cols = _facts(row, col, factors)
    kinds = tiling.differentiable
    num_scales = len(kinds) if len(kinds) > 1 else 0
    biased = [k for k in kinds if cols.biases[k] is not None]

    def start(lay: Lay) -> tuple[Array, ...]:
        return (lay.full((hopper.ROWS, LANE), 0.0),) * num_scales

    def pull(part: Part, sums: tuple) -> tuple[tuple, list[Array], Array]:
        taken, shares, columns, total = _masks(part, tiling), list(sums), [], None
        for i, k in enumerate(kinds):
            weight = weights(
                part.cosines,
                Masks(taken[k], taken[k]),
                part.scales[k],
                part.cols.biases[k],
                part.rows.factors[i],
                part.cols.factors[i],
                tiling.reductions[k],
            )
            if shares:
                shares[i] = sum(columns_of(weight * part.cosines, LANE), shares[i])
            if k in biased:
                columns.append(part.over_rows("add", weight))
            total = weight if total is None else total + weight
        assert total is not None
        return tuple(shares), columns, total

    def end(sums: tuple) -> list[Array]:
        return [share.sum(axis=1) for share in sums]

    by_row, by_col, weight = hopper.sweep(
        *(x, y, of_rows, of_cols, scales),
        shape,
        Outputs(num_scales, len(biased), weights=True),
        start=start,
        reduce=pull,
        end=end,
    )
    assert weight is not None
    of_scales = () if by_row is None else tuple(by_row.sum(axis=0)[:, :num_rows])
    found = iter(() if by_col is None else by_col.sum(axis=0)[:, :num_cols])
    of_biases = tuple(next(found) if k in biased else None for k in kinds)
    return weight, Shares(of_scales, of_biases)


def _kept(tiling: Tiling) -> tuple[RowSums, ColSums]:
    """What is kept of a row and of a column, as shapes."""
    return jax.eval_shape(lambda: (RowSums.empty((1,), tiling), no_columns((1,), tiling)))


def _padded(tree: Tree, length: int) -> Tree:
    return jax.tree.map(lambda v: v[0], split(tree, length))


def _operands(rows: Rows, cols: Cols, shape: Sweep) -> tuple[Array, Array, Rows, Cols]:
    """Anchors, keys transposed, and what is known of them, padded for a sweep."""
    num_rows, num_cols, width = shape.padded
    rows, cols = _padded(rows, num_rows), _padded(cols, num_cols)
    wider = [(0, 0), (0, width - rows.x.shape[1])]
    return jnp.pad(rows.x, wider), jnp.pad(cols.y, wider).T, rows, cols


def _facts(rows: Rows, cols: Cols, factors: Factors | None = None) -> tuple[_OfRows, _OfCols]:
    """What a sweep is told of both sides."""
    of_rows, of_cols = ((), ()) if factors is None else factors
    return _OfRows(rows.ids, of_rows), _OfCols(cols.ids, cols.biases, of_cols)


def _masks(part: Part, tiling: Tiling) -> list[Bool[Array, "R C"]]:
    """The pairs of each reduction."""
    sides = part.rows.ids, part.cols.ids
    return [pairs_over(*sides, kind.over, one_side=tiling.one_side) for kind in tiling.reductions]


def _terms(
    cosines: Float[Array, "R C"],
    scale: Float[Array, ""],
    bias: Float[Array, "R C"] | None,
    kind: Reduction,
) -> Float[Array, "R C"]:
    """As `terms`, without log1p, which the GPU's compiler has not.

    log(1 + t) of a t up to 1 is 2 artanh(z) with z = t / (2 + t) up to 1/3, whose series leaves
    less than a float32's rounding after eight terms, however small t is.
    """
    if kind.kind != "softplus":
        return terms(cosines, scale, bias, kind)
    scores = logits(cosines, scale, bias)
    t = jnp.exp(-jnp.abs(scores))
    z = t / (2.0 + t)
    square, series = z * z, jnp.zeros_like(z)
    for n in range(15, -1, -2):
        series = series * square + 2.0 / n
    return jnp.maximum(scores, 0.0) + z * series


def _add(sums: Sums, pieces: list[Float[Array, "R c"]]) -> Sums:
    """With more terms, each in its own lane: sums of a row meet when all tiles are through."""
    if sums.top is None:
        return Sums(sum(pieces, sums.total), None)
    top = functools.reduce(jnp.maximum, pieces, sums.top)
    shift = settled(top)
    total = sums.total * jnp.exp(sums.top - shift)
    return Sums(sum((jnp.exp(piece - shift) for piece in pieces), total), top)


def _collapse(sums: Sums, axis: int) -> Sums:
    """Sums over different pairs, along an axis, as one."""
    if sums.top is None:
        return Sums(sums.total.sum(axis=axis), None)
    top = sums.top.max(axis=axis)
    shift = along(settled(top), 1 - axis, sums.top.shape)
    return Sums((sums.total * jnp.exp(sums.top - shift)).sum(axis=axis), top)


def _collapsed(sums: RowSums, axis: int) -> RowSums:
    return RowSums(
        tuple(_collapse(s, axis) for s in sums.sums),
        tuple(None if c is None else c.sum(axis=axis) for c in sums.counts),
        sums.max.max(axis=axis),
    )


def _over_rows(term: Float[Array, "R C"], kind: Reduction, part: Part) -> list[Float[Array, "C"]]:
    """The numbers of `Sums` of each column."""
    if kind.kind == "softplus" or kind.bounded:
        return [part.over_rows("add", term)]
    top = part.over_rows("max", term)
    shift = along(settled(top), 1, term.shape)
    return [part.over_rows("add", jnp.exp(term - shift)), top]
