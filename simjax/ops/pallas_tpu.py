"""The operator as two TPU kernels: scores stay on the chip, forward and backward one pass each.

The grid goes through the tiles row by row. Sums of the present rows and of all columns stay in
VMEM, as do the gradients of the present anchors; those of the keys lie in HBM and are fetched,
added to and sent back for each tile while the next products run. Per tile of R x C scores that is
2 R C D operations forward and 6 R C D backward, and backward 8 C D bytes to and from HBM: with 512
anchors to a tile 384 operations for each byte, more than a TPU asks for. What one step adds to the
columns the next one needs, so that of the two cores of a v4 or v5p one does the work.

The mathematics of a tile is that of `simjax.ops.tiled`, by the same functions.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from simjax.ops.operands import product
from simjax.ops.packed import LANES, Facts, Packed, lane, line, pack, read, unpack, whole, write
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
)

_TILE = 512
_VMEM = 64 * 2**20
"""Bytes that a kernel may ask for, of 128 MiB on a v5e or v6e and 64 MiB on a v5p."""

MOST_COLUMN_BYTES = 8 * 2**20
"""Of VMEM for what is reduced of all columns."""

_WIDEST = 2048
"""Width of vectors whose tiles and buffers fit beside each other."""


def tile_shape(num_anchors: int, num_keys: int, on_gpu: bool = False) -> tuple[int, int]:
    """Whole vector registers: multiples of 128 lanes."""

    def one(n: int) -> int:
        tiles = -(-n // _TILE)
        return -(-n // (tiles * LANES)) * LANES

    return one(num_anchors), one(num_keys)


def supports(rows: Rows, cols: Cols, tiling: Tiling) -> bool:
    """Whether what the kernels keep on the chip fits there."""
    per_key = len(jax.tree.leaves((cols.biases, *_empty(tiling)[1])))
    columns = 4 * per_key * len(cols.y) <= MOST_COLUMN_BYTES
    facts = len(jax.tree.leaves((rows.ids, *_empty(tiling)[0]))) <= LANES
    vectors = rows.x.shape[1] + (0 if rows.guide is None else rows.guide.vectors.shape[1])
    return columns and facts and vectors <= _WIDEST


def _empty(tiling: Tiling) -> tuple[RowSums, ColSums]:
    return RowSums.empty((1, 1), tiling), no_columns((1, 1), tiling)


def _tile(rows: Packed, cols: Packed, row: Facts, col: Facts, tiling: Tiling) -> Any:
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


def reduce(
    rows: Rows, cols: Cols, scales: Float[Array, "S"], tiling: Tiling
) -> tuple[RowSums, ColSums]:
    """`simjax.ops.tiled.reduce` in one kernel."""
    tiling = tiling.shaped(tile_shape, len(rows.x), len(cols.y))
    row_side, row_facts = pack(rows, (), tiling.rows)
    col_side, col_facts = pack(cols, (), tiling.cols)
    num_rows, num_cols = len(row_side.whole), len(col_side.whole)
    of_rows, of_cols = _empty(tiling)
    num_sums, num_columns = len(jax.tree.leaves(of_rows)), len(jax.tree.leaves(of_cols))

    def kernel(
        scales: Any, rows: Packed, cols: Packed, found: Any, columns: Any, kept: Any
    ) -> None:
        i, j = pl.program_id(0), pl.program_id(1)

        @pl.when(j == 0)
        def _() -> None:
            write(kept, RowSums.empty((tiling.rows, 1), tiling), lane)

        if num_columns:

            @pl.when(i == 0)
            def _() -> None:
                write(columns, no_columns((1, tiling.cols), tiling), line(j))

        row = rows.facts(row_facts, upright=True)
        col = cols.facts(col_facts, upright=False)
        tile = _tile(rows, cols, row, col, tiling)
        sums = read(kept, of_rows, lane)
        so_far = read(columns, of_cols, line(j)) if num_columns else of_cols
        sums, so_far = add_tile(sums, so_far, tile, scales, tiling)
        write(kept, sums, lane)
        if num_columns:
            write(columns, so_far, line(j))

        @pl.when(j == num_cols - 1)
        def _() -> None:
            found[...] = kept[...].T[: found.shape[0]]

    shape = (num_rows, whole(num_sums), tiling.rows)
    column_shape = (max(num_columns, 1), num_cols, tiling.cols)
    found, columns = pl.pallas_call(
        kernel,
        grid=(num_rows, num_cols),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            row_side.specs(tiling.rows, 0),
            col_side.specs(tiling.cols, 1),
        ],
        out_specs=[
            pl.BlockSpec((None, *shape[1:]), lambda i, j: (i, 0, 0)),
            pl.BlockSpec(column_shape, lambda i, j: (0, 0, 0)),
        ],
        out_shape=[_out(shape, rows.x), _out(column_shape, rows.x)],
        scratch_shapes=[pltpu.VMEM((tiling.rows, LANES), jnp.float32)],
        compiler_params=_params(),
        name="simjax_reduce_pairs",
    )(scales, row_side, col_side)
    sums = unpack(found.swapaxes(0, 1), of_rows, len(rows.x))
    return sums, unpack(columns, of_cols, len(cols.y))


def _params() -> Any:
    return pltpu.CompilerParams(
        dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=_VMEM
    )


def pull_back(
    rows: Rows, cols: Cols, factors: Factors, scales: Float[Array, "S"], tiling: Tiling
) -> Gradients:
    """`simjax.ops.tiled.pull_back` in one kernel."""
    tiling = tiling.shaped(tile_shape, len(rows.x), len(cols.y))
    row_side, row_facts = pack(rows, factors.rows, tiling.rows)
    col_side, col_facts = pack(cols, factors.cols, tiling.cols)
    num_rows, num_cols = len(row_side.whole), len(col_side.whole)
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
                write(biases, zeros.biases, line(j))

        row = rows.facts(row_facts, upright=True)
        col = cols.facts(col_facts, upright=False)
        tile = _tile(rows, cols, row, col, tiling)
        shares = Shares(read(kept, nothing.scales, lane), read(biases, nothing.biases, line(j)))
        both = Factors(row.factors, col.factors)
        weight, shares = pull_back_tile(tile, both, shares, scales, tiling)
        write(kept, shares.scales, lane)
        write(biases, shares.biases, line(j))
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

    shape = (num_rows, whole(by_scale), tiling.rows)
    bias_shape = (max(by_bias, 1), num_cols, tiling.cols)
    tile_of_keys = (tiling.cols, width)
    d_x, d_y, found, biases = pl.pallas_call(
        kernel,
        grid=(num_rows, num_cols),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            row_side.specs(tiling.rows, 0),
            col_side.specs(tiling.cols, 1),
        ],
        out_specs=[
            pl.BlockSpec((tiling.rows, width), lambda i, j: (i, 0)),
            pl.BlockSpec(memory_space=pl.ANY),
            pl.BlockSpec((None, *shape[1:]), lambda i, j: (i, 0, 0)),
            pl.BlockSpec(bias_shape, lambda i, j: (0, 0, 0)),
        ],
        out_shape=[
            _out(row_side.vectors.shape, rows.x),
            _out(col_side.vectors.shape, rows.x),
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
    )(scales, row_side, col_side)
    shares = Shares(
        unpack(found.swapaxes(0, 1), nothing.scales, len(rows.x)),
        unpack(biases, nothing.biases, len(cols.y)),
    )
    return Gradients.of(d_x[: len(rows.x)], d_y[: len(cols.y)], shares, rows, cols, scales, tiling)
