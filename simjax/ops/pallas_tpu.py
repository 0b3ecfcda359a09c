"""The operator as two TPU kernels: scores stay on the chip, forward and backward one pass each.

The grid goes through the tiles row by row. Sums of the present rows and of all columns stay in
VMEM, as do the gradients of the present anchors; those of the keys lie in HBM and are fetched,
added to and sent back for each tile while the next products run. Per tile of R x C scores that is
2 R C D operations forward and 6 R C D backward, and backward 8 C D bytes to and from HBM: with 512
anchors to a tile 384 operations for each byte, more than a TPU asks for.

The mathematics of a tile is that of `simjax.ops.tiled`, by the same functions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from simjax.ops.operands import product
from simjax.ops.tiles import (
    Cols,
    ColSums,
    Factors,
    Gradients,
    Rows,
    RowSums,
    Shares,
    Sight,
    Tiling,
    add_tile,
    make_tile,
    no_columns,
    pull_back_tile,
    split,
)

LANES = 128
_TILE = 512
_VMEM = 64 * 2**20
"""Bytes that a kernel may ask for, of 128 MiB on a v5e or v6e and 64 MiB on a v5p."""

_MOST_COLUMN_BYTES = 8 * 2**20
"""Of VMEM for what is reduced of all columns."""

_WIDEST = 2048
"""Width of vectors whose tiles and buffers fit beside each other."""


def tile_shape(num_anchors: int, num_keys: int) -> tuple[int, int]:
    """Whole vector registers: multiples of 128 lanes."""

    def one(n: int) -> int:
        tiles = -(-n // _TILE)
        return -(-n // (tiles * LANES)) * LANES

    return one(num_anchors), one(num_keys)


def supports(rows: Rows, cols: Cols, tiling: Tiling) -> bool:
    """Whether what the kernels keep on the chip fits there."""
    per_key = len(jax.tree.leaves((cols.biases, *_empty(tiling)[1])))
    columns = 4 * per_key * len(cols.y) <= _MOST_COLUMN_BYTES
    facts = len(jax.tree.leaves((rows.ids, *_empty(tiling)[0]))) <= LANES
    return columns and facts and rows.x.shape[1] <= _WIDEST


def _empty(tiling: Tiling) -> tuple[RowSums, ColSums]:
    return RowSums.empty((1, 1), tiling), no_columns((1, 1), tiling)


class Packed(NamedTuple):
    """One side, cut into tiles, its facts side by side in few arrays.

    Attributes:
        vectors: [B, D].
        seen: The guide's [B, G].
        whole: Facts in whole numbers.
        real: Facts in floats.
    """

    vectors: Float[Array, "B D"]
    seen: Float[Array, "B G"] | None
    whole: Int[Array, "I F R"]
    real: Float[Array, "I F R"] | None


def _pack(vectors: Array, seen: Array | None, facts: Any, size: int) -> Packed:
    """Pads to whole tiles; facts of float and int32 go where `_unpack` finds them."""

    def padded(x: Array | None) -> Array | None:
        return None if x is None else split(x, size).reshape(-1, x.shape[-1])

    def stacked(dtype: Any) -> Array | None:
        found = [split(x, size) for x in jax.tree.leaves(facts) if x.dtype == dtype]
        if not found:
            return None
        # Whole registers of eight rows, for the kernel to turn them into columns.
        rows = [*found, *[found[0]] * (-len(found) % 8)]
        return jnp.stack(rows, axis=1)

    whole = stacked(jnp.int32)
    assert whole is not None  # ids are there
    packed = padded(vectors)
    assert packed is not None
    return Packed(packed, padded(seen), whole, stacked(jnp.float32))


def _specs(side: Packed, size: int, axis: int) -> Any:
    """One tile of a side at a time, along an axis of the grid."""

    def vectors(x: Array) -> pl.BlockSpec:
        return pl.BlockSpec((size, x.shape[1]), lambda *at: (at[axis], 0))

    def facts(x: Array) -> pl.BlockSpec:
        return pl.BlockSpec((None, *x.shape[1:]), lambda *at: (at[axis], 0, 0))

    specs: Any = Packed  # of blocks instead of arrays
    return specs(
        vectors(side.vectors),
        None if side.seen is None else vectors(side.seen),
        facts(side.whole),
        None if side.real is None else facts(side.real),
    )


def _unpack(side: Packed, like: Any, *, upright: bool) -> Any:
    """Inside of a kernel: the facts of a tile, as columns of anchors or as rows of keys."""
    tables = {}
    for name, ref in (("int32", side.whole), ("float32", side.real)):
        if ref is not None:
            tables[name] = (ref[...].T if upright else ref[...], iter(range(ref.shape[0])))

    def one(leaf: Any) -> Array:
        table, place = tables[leaf.dtype.name]
        k = next(place)
        return table[:, k : k + 1] if upright else table[k : k + 1, :]

    return jax.tree.map(one, like)


class _Facts(NamedTuple):
    """What a kernel is told of one side beside its vectors, as shapes."""

    ids: Any
    limit: Any
    biases: Any
    factors: Any


def _facts(side: Rows | Cols, factors: Any) -> _Facts:
    limit = None if side.guide is None else side.guide.limit
    return _Facts(side.ids, limit, side.biases if isinstance(side, Cols) else (), factors)


def _tile(rows: Packed, cols: Packed, row: _Facts, col: _Facts, tiling: Tiling) -> Any:
    """Inside of a kernel: the present tile of scores."""
    guides = [
        None if side.seen is None else Sight(side.seen[...], facts.limit)
        for side, facts in ((rows, row), (cols, col))
    ]
    return make_tile(
        Rows(rows.vectors[...], row.ids, guides[0]),
        Cols(cols.vectors[...], col.ids, guides[1], col.biases),
        tiling,
    )


def _out(shape: tuple[int, ...], like: Array) -> jax.ShapeDtypeStruct:
    """A result in float32 that varies over devices as an operand does."""
    axes = jax.typeof(like).manual_axis_type
    return jax.ShapeDtypeStruct(shape, jnp.float32, manual_axis_type=axes)


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _read(ref: Any, like: Any, at: Any) -> Any:
    """The arrays of ``like`` from where they are kept in VMEM."""
    leaves, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, [ref[at(k)] for k in range(len(leaves))])


def _write(ref: Any, tree: Any, at: Any) -> None:
    for k, leaf in enumerate(jax.tree.leaves(tree)):
        ref[at(k)] = leaf


def _lane(k: int) -> tuple[slice, slice]:
    """Where the k-th fact of the present anchors is kept."""
    return slice(None), slice(k, k + 1)


def _line(j: Any) -> Any:
    """Where the k-th fact of the keys of column j is kept."""
    return lambda k: (k, pl.ds(j, 1), slice(None))


def reduce(
    rows: Rows,
    cols: Cols,
    scales: Float[Array, "S"],
    tiling: Tiling,
) -> tuple[RowSums, ColSums]:
    """`simjax.ops.tiled.reduce` in one kernel."""
    tiling = tiling.shaped(tile_shape, len(rows.x), len(cols.y))
    row_facts, col_facts = _facts(rows, ()), _facts(cols, ())
    packed = (
        _pack(rows.x, _seen(rows), row_facts, tiling.rows),
        _pack(cols.y, _seen(cols), col_facts, tiling.cols),
    )
    row_facts, col_facts = _shapes((row_facts, col_facts))
    num_rows, num_cols = (len(side.whole) for side in packed)
    of_rows, of_cols = _empty(tiling)
    num_sums, num_columns = len(jax.tree.leaves(of_rows)), len(jax.tree.leaves(of_cols))

    def kernel(
        scales: Any, rows: Packed, cols: Packed, found: Any, columns: Any, kept: Any
    ) -> None:
        i, j = pl.program_id(0), pl.program_id(1)

        @pl.when(j == 0)
        def _() -> None:
            _write(kept, RowSums.empty((tiling.rows, 1), tiling), _lane)

        if num_columns:

            @pl.when(i == 0)
            def _() -> None:
                _write(columns, no_columns((1, tiling.cols), tiling), _line(j))

        row = _unpack(rows, row_facts, upright=True)
        col = _unpack(cols, col_facts, upright=False)
        tile = _tile(rows, cols, row, col, tiling)
        sums = _read(kept, of_rows, _lane)
        so_far = _read(columns, of_cols, _line(j)) if num_columns else of_cols
        sums, so_far = add_tile(sums, so_far, tile, scales, tiling)
        _write(kept, sums, _lane)
        if num_columns:
            _write(columns, so_far, _line(j))

        @pl.when(j == num_cols - 1)
        def _() -> None:
            found[...] = kept[...].T[: found.shape[0]]

    shape = (num_rows, -(-num_sums // 8) * 8, tiling.rows)
    column_shape = (max(num_columns, 1), num_cols, tiling.cols)
    found, columns = pl.pallas_call(
        kernel,
        grid=(num_rows, num_cols),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            _specs(packed[0], tiling.rows, 0),
            _specs(packed[1], tiling.cols, 1),
        ],
        out_specs=[
            pl.BlockSpec((None, *shape[1:]), lambda i, j: (i, 0, 0)),
            pl.BlockSpec(column_shape, lambda i, j: (0, 0, 0)),
        ],
        out_shape=[_out(shape, rows.x), _out(column_shape, rows.x)],
        scratch_shapes=[pltpu.VMEM((tiling.rows, LANES), jnp.float32)],
        compiler_params=_params(),
        name="simjax_reduce_pairs",
    )(scales, *packed)
    sums = _gathered(of_rows, found.swapaxes(0, 1), len(rows.x))
    return sums, _gathered(of_cols, columns, len(cols.y))


def _gathered(like: Any, found: Float[Array, "F I R"], length: int) -> Any:
    """Facts of all anchors or keys from what a kernel has written."""
    leaves, structure = jax.tree.flatten(like)
    lines = [found[k].reshape(-1)[:length] for k in range(len(leaves))]
    return jax.tree.unflatten(structure, lines)


def _seen(side: Rows | Cols) -> Array | None:
    return None if side.guide is None else side.guide.vectors


def _params() -> Any:
    return pltpu.CompilerParams(
        dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=_VMEM
    )


def pull_back(
    rows: Rows,
    cols: Cols,
    factors: Factors,
    scales: Float[Array, "S"],
    tiling: Tiling,
) -> Gradients:
    """`simjax.ops.tiled.pull_back` in one kernel."""
    tiling = tiling.shaped(tile_shape, len(rows.x), len(cols.y))
    row_facts, col_facts = _facts(rows, factors.rows), _facts(cols, factors.cols)
    packed = (
        _pack(rows.x, _seen(rows), row_facts, tiling.rows),
        _pack(cols.y, _seen(cols), col_facts, tiling.cols),
    )
    row_facts, col_facts = _shapes((row_facts, col_facts))
    num_rows, num_cols = (len(side.whole) for side in packed)
    width, steps = rows.x.shape[1], num_rows * num_cols
    nothing = Shares.empty((1, 1), (1, 1), cols.biases, tiling)
    by_scale, by_bias = (len(jax.tree.leaves(part)) for part in nothing)
    # The gradient of a column of tiles is not fetched before it was sent: with one column, that
    # was in the step before.
    depth = min(num_cols, 2)

    def kernel(
        scales: Any,
        rows: Packed,
        cols: Packed,
        d_x: Any,
        d_y: Any,
        found: Any,
        biases: Any,
        kept: Any,
        buffer: Any,
        coming: Any,
        going: Any,
    ) -> None:
        i, j = pl.program_id(0), pl.program_id(1)
        step = i * num_cols + j
        slot = jax.lax.rem(step, depth)

        def home(column: Any) -> Any:
            return d_y.at[pl.ds(pl.multiple_of(column * tiling.cols, tiling.cols), tiling.cols)]

        def fetch() -> Any:
            return pltpu.make_async_copy(home(j), buffer.at[slot], coming.at[slot])

        def send(step: Any) -> Any:
            slot, column = jax.lax.rem(step, depth), jax.lax.rem(step, num_cols)
            return pltpu.make_async_copy(buffer.at[slot], home(column), going.at[slot])

        @pl.when(step >= depth)
        def _() -> None:
            send(step - depth).wait()

        @pl.when(i > 0)
        def _() -> None:
            fetch().start()

        @pl.when(j == 0)
        def _() -> None:
            d_x[...] = jnp.zeros_like(d_x)
            kept[...] = jnp.zeros_like(kept)

        if by_bias:

            @pl.when(i == 0)
            def _() -> None:
                zeros = Shares.empty((1, 1), (1, tiling.cols), col_facts.biases, tiling)
                _write(biases, zeros.biases, _line(j))

        row = _unpack(rows, row_facts, upright=True)
        col = _unpack(cols, col_facts, upright=False)
        tile = _tile(rows, cols, row, col, tiling)
        shares = Shares(_read(kept, nothing.scales, _lane), _read(biases, nothing.biases, _line(j)))
        both = Factors(row.factors, col.factors)
        weight, shares = pull_back_tile(tile, both, shares, scales, tiling)
        _write(kept, shares.scales, _lane)
        _write(biases, shares.biases, _line(j))
        x, y = rows.vectors[...], cols.vectors[...]
        weight = weight.astype(y.dtype)
        d_x[...] += product(weight, y, (1, 0))
        by_key = product(weight, x, (0, 0))

        @pl.when(i == 0)
        def _() -> None:
            buffer[slot] = by_key

        @pl.when(i > 0)
        def _() -> None:
            fetch().wait()
            buffer[slot] += by_key

        send(step).start()

        @pl.when(j == num_cols - 1)
        def _() -> None:
            found[...] = kept[...].T[: found.shape[0]]

        @pl.when(step == steps - 1)
        def _() -> None:
            for last in range(max(steps - depth, 0), steps):
                send(last).wait()

    shape = (num_rows, -(-max(by_scale, 1) // 8) * 8, tiling.rows)
    bias_shape = (max(by_bias, 1), num_cols, tiling.cols)
    tile_of_keys = (tiling.cols, width)
    d_x, d_y, found, biases = pl.pallas_call(
        kernel,
        grid=(num_rows, num_cols),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            _specs(packed[0], tiling.rows, 0),
            _specs(packed[1], tiling.cols, 1),
        ],
        out_specs=[
            pl.BlockSpec((tiling.rows, width), lambda i, j: (i, 0)),
            pl.BlockSpec(memory_space=pl.ANY),
            pl.BlockSpec((None, *shape[1:]), lambda i, j: (i, 0, 0)),
            pl.BlockSpec(bias_shape, lambda i, j: (0, 0, 0)),
        ],
        out_shape=[
            _out(packed[0].vectors.shape, rows.x),
            _out(packed[1].vectors.shape, rows.x),
            _out(shape, rows.x),
            _out(bias_shape, rows.x),
        ],
        scratch_shapes=[
            pltpu.VMEM((tiling.rows, LANES), jnp.float32),
            pltpu.VMEM((depth, *tile_of_keys), jnp.float32),
            pltpu.SemaphoreType.DMA((depth,)),
            pltpu.SemaphoreType.DMA((depth,)),
        ],
        compiler_params=_params(),
        name="simjax_pull_back_pairs",
    )(scales, *packed)
    shares = Shares(
        _gathered(nothing.scales, found.swapaxes(0, 1), len(rows.x)),
        _gathered(nothing.biases, biases, len(cols.y)),
    )
    return Gradients.of(d_x[: len(rows.x)], d_y[: len(cols.y)], shares, rows, cols, scales, tiling)
