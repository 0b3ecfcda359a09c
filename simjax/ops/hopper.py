"""One sweep of a Hopper GPU's tensor cores over pairs: tiles of cosines, and what is made of them.

A thread block takes 256 anchors and a chunk of the keys, 128 keys at a time. One of its three
warpgroups copies operands to shared memory (TMA, a ring of stages of 64 dimensions), and two
multiply them (WGMMA), each 128 anchors by 128 keys with float32 sums in 128 registers a thread.
The copies of the next tile are under way while a tile is reduced. What is made of a tile is the
caller's: it is given 32 columns at a time, so that masks and terms stay in registers.

Keys come transposed, [D, N]: both operands then lie in shared memory as they lie in the arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

from simjax.mesh import vary_like
from simjax.ops.registers import Lay, Part, columns_of, pack, unpack

ROWS = 128
"""Anchors of a warpgroup's tile."""

BLOCK_ROWS = 2 * ROWS
"""Anchors of a thread block."""

COLS = 128
"""Keys of a tile."""

PART = 32
"""Columns that are reduced at a time."""

LANE = 8
"""Columns of a running sum: as many as one thread's registers tell apart without an exchange."""

DEPTH = 64
"""Dimensions of one stage: 128 bytes, the widest swizzle."""

GROUP = 16
"""Blocks of rows that go side by side through the keys, to share them in the L2 cache."""

BLOCKS_WANTED = 1024
"""Thread blocks among which the tiles are shared out: about eight to each multiprocessor."""

SHARED_MEMORY = 227 * 1024
"""Bytes of shared memory that a thread block may use."""

CLUSTER = 1
"""Thread blocks, 1 or 2, that share each copy of their anchors; see `Sweep.cluster`."""

_MEMORY_REGISTERS, _COMPUTE_REGISTERS = 40, 232


@dataclass(frozen=True)
class Sweep:
    """The static shape of a sweep.

    Attributes:
        blocks: Thread blocks along the anchors.
        chunks: Thread blocks along the keys.
        span: Tiles of keys of one chunk.
        steps: Stages of one tile: the width in units of `DEPTH`.
        cluster: Neighbouring chunks whose thread blocks run together and copy their anchors, which
            are the same, once for all.
        interpret: Run on the CPU, in the interpreter of Pallas.
    """

    blocks: int
    chunks: int
    span: int
    steps: int
    cluster: int
    interpret: bool

    @classmethod
    def of(cls, num_anchors: int, num_keys: int, width: int, *, interpret: bool) -> Sweep:
        """For so many pairs, with little padding."""
        blocks, tiles = -(-num_anchors // BLOCK_ROWS), -(-num_keys // COLS)
        cluster = 1 if interpret or tiles < CLUSTER else CLUSTER
        span = -(-tiles // min(tiles, -(-BLOCKS_WANTED // blocks)))
        chunks = -(-tiles // (span * cluster)) * cluster
        return cls(blocks, chunks, span, -(-width // DEPTH), cluster, interpret)

    @property
    def padded(self) -> tuple[int, int, int]:
        """Anchors, keys and width, as the operands have to be."""
        return self.blocks * BLOCK_ROWS, self.chunks * self.span * COLS, self.steps * DEPTH


Reduce = Callable[[Part, Any], tuple[Any, Sequence[Array], Array | None]]
"""What is made of a part: running sums of rows, numbers for each column, and weights."""


@dataclass(frozen=True)
class Outputs:
    """What a sweep returns, in numbers.

    Attributes:
        rows: float32 numbers of each row and chunk.
        cols: float32 numbers of each column and 128 rows.
        weights: Whether there is an array of all pairs, of the operands' type.
    """

    rows: int
    cols: int
    weights: bool


def sweep(
    x: Float[Array, "B D"],
    y: Float[Array, "D N"],
    rows: Any,
    cols: Any,
    scales: Float[Array, "S"],
    shape: Sweep,
    outputs: Outputs,
    *,
    start: Callable[[Lay], Any],
    reduce: Reduce,
    end: Callable[[Any], Sequence[Float[Array, "R"]]],
) -> tuple[Array | None, Array | None, Array | None]:
    """Makes all tiles of cosines, and of each what ``reduce`` does.

    Args:
        x: Anchors, padded to `Sweep.padded`.
        y: Keys, transposed and padded.
        rows: What is known of the anchors: a tree of padded arrays [B] of 32 bits.
        cols: What is known of the keys, likewise.
        scales: Of the reductions.
        shape: The static shape.
        outputs: What ``reduce`` and ``end`` return.
        start: Running sums of no pairs.
        reduce: Takes a part of a tile and the running sums of its rows.
        end: Numbers of rows from their running sums.

    Returns:
        Numbers of rows [chunks, rows, B], numbers of columns [B / 128, cols, N], weights [B, N];
        None of what there is none.
    """
    operand = x.dtype
    (row_facts, row_tree), (col_facts, col_tree) = pack(rows), pack(cols)
    num_rows, num_cols, _ = shape.padded
    lay, per_chunk = Lay(shape.interpret), shape.span * shape.steps
    swizzled = (plgpu.TilingTransform((8, DEPTH)), plgpu.SwizzleTransform(128))
    piece = min(PART, DEPTH)
    narrow = (plgpu.TilingTransform((8, piece)), plgpu.SwizzleTransform(2 * piece))
    possible: list[tuple[str, tuple[int, ...], Any]] = [
        ("rows", (shape.chunks, outputs.rows, num_rows), jnp.float32),
        ("cols", (num_rows // ROWS, outputs.cols, num_cols), jnp.float32),
        ("weights", (num_rows, num_cols) if outputs.weights else (0,), operand),
    ]
    given = [each for each in possible if math.prod(each[1])]

    scratch: dict[str, Any] = {
        "row_facts": plgpu.SMEM((len(row_facts), BLOCK_ROWS), jnp.int32),
        "col_facts": plgpu.SMEM((2, len(col_facts), COLS), jnp.int32),
        "rows_came": plgpu.Barrier(num_barriers=1),
        "cols_came": plgpu.Barrier(num_barriers=2),
        "cols_left": plgpu.Barrier(num_arrivals=2, num_barriers=2),
    }
    if outputs.rows:
        scratch["rows_out"] = plgpu.SMEM((2, outputs.rows, ROWS), jnp.float32)
    if outputs.cols:
        scratch["cols_out"] = plgpu.SMEM((2, outputs.cols, COLS), jnp.float32)
        scratch["exchange"] = plgpu.SMEM((2, ROWS * LANE), jnp.float32)
    if outputs.weights:
        scratch["weights_out"] = plgpu.SMEM((2, 2, ROWS, PART), operand, transforms=narrow)
    taken = sum(
        math.prod(s.shape) * jnp.dtype(s.dtype).itemsize
        for s in scratch.values()
        if isinstance(s, type(scratch["row_facts"]))
    )
    stages = min(4, per_chunk, (SHARED_MEMORY - 4096 - taken) // stage_bytes(operand))
    # A stage is left when the product after it has begun, in another one.
    assert stages >= min(2, per_chunk), "shared memory does not hold two stages"
    scratch |= {
        "x": plgpu.SMEM((stages, BLOCK_ROWS, DEPTH), operand, transforms=swizzled),
        "y": plgpu.SMEM((stages, DEPTH, COLS), operand, transforms=swizzled),
        "came": plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        "left": plgpu.Barrier(num_arrivals=2, num_barriers=stages),
    }
    together: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    if shape.cluster > 1:
        together = {"cluster": (shape.cluster,), "cluster_names": ("cluster",)}
        shared = {"collective_axes": "cluster"}
        # A stage of both blocks is filled at once, when both have left theirs.
        scratch["left"] = plgpu.ClusterBarrier(
            collective_axes=("cluster",), num_arrivals=2, num_barriers=stages
        )

    def kernel(*refs: Any, **own: Any) -> None:
        x, y, of_rows, of_cols, scales, *results = refs
        out = {name: ref for (name, _, _), ref in zip(given, results, strict=True)}
        group = lax.axis_index("wg")
        block, chunk = place(lax.axis_index("block"), shape)
        if shape.cluster > 1:
            chunk = chunk * shape.cluster + lax.axis_index("cluster")
        row, first = block * BLOCK_ROWS, chunk * shape.span

        @pl.when(group == 2)
        def _copy() -> None:
            plgpu.set_max_registers(_MEMORY_REGISTERS, action="decrease")
            plgpu.copy_gmem_to_smem(
                of_rows.at[:, pl.ds(row, BLOCK_ROWS)], own["row_facts"], own["rows_came"].at[0]
            )

            @pl.loop(0, per_chunk)
            def _stage(step: Any) -> None:
                slot, k = lax.rem(step, stages), lax.rem(step, shape.steps)
                tile = lax.div(step, shape.steps)
                col = (first + tile) * COLS

                @pl.when(step >= stages)
                def _() -> None:
                    plgpu.barrier_wait(own["left"].at[slot])

                plgpu.copy_gmem_to_smem(
                    x.at[pl.ds(row, BLOCK_ROWS), pl.ds(k * DEPTH, DEPTH)],
                    own["x"].at[slot],
                    own["came"].at[slot],
                    **shared,
                )
                plgpu.copy_gmem_to_smem(
                    y.at[pl.ds(k * DEPTH, DEPTH), pl.ds(col, COLS)],
                    own["y"].at[slot],
                    own["came"].at[slot],
                )

                @pl.when(k == 0)
                def _() -> None:
                    half = lax.rem(tile, 2)

                    @pl.when(tile >= 2)
                    def _() -> None:
                        plgpu.barrier_wait(own["cols_left"].at[half])

                    plgpu.copy_gmem_to_smem(
                        of_cols.at[:, pl.ds(col, COLS)],
                        own["col_facts"].at[half],
                        own["cols_came"].at[half],
                    )

            # No arrival is left unseen, so that barriers end as they began.
            for slot in range(stages):
                plgpu.barrier_wait(own["left"].at[slot])
            for half in range(min(2, shape.span)):
                plgpu.barrier_wait(own["cols_left"].at[half])

        @pl.when(group < 2)
        def _multiply() -> None:
            plgpu.set_max_registers(_COMPUTE_REGISTERS, action="increase")
            rows = pl.ds(group * ROWS, ROWS)
            factors = [scales[k] for k in range(scales.shape[0])]
            plgpu.barrier_wait(own["rows_came"].at[0])

            def tile(index: Any, sums: Any) -> Any:
                def products(acc: Any) -> Array:
                    @pl.loop(0, shape.steps)
                    def _stage(k: Any) -> None:
                        step = index * shape.steps + k
                        slot = lax.rem(step, stages)
                        plgpu.barrier_wait(own["came"].at[slot])
                        plgpu.wgmma(acc, own["x"].at[slot, rows], own["y"].at[slot])
                        # The product before this one is through: its stage may be filled.
                        plgpu.wgmma_wait(1)

                        @pl.when(k > 0)
                        def _() -> None:
                            plgpu.barrier_arrive(own["left"].at[lax.rem(step - 1, stages)])

                    plgpu.wgmma_wait(0)
                    last = index * shape.steps + shape.steps - 1
                    plgpu.barrier_arrive(own["left"].at[lax.rem(last, stages)])
                    return acc[...]

                cosines = pl.run_scoped(products, plgpu.ACC((ROWS, COLS), jnp.float32))
                half, col = lax.rem(index, 2), (first + index) * COLS
                plgpu.barrier_wait(own["cols_came"].at[half])
                for p, part in enumerate(columns_of(cosines, PART)):
                    cols = pl.ds(p * PART, PART)
                    known = (
                        [own["row_facts"].at[f, rows] for f in range(len(row_facts))],
                        [own["col_facts"].at[half, f, cols] for f in range(len(col_facts))],
                    )
                    sums, found, weight = reduce(
                        Part(
                            part,
                            unpack(known[0], 0, part.shape, row_tree, lay),
                            unpack(known[1], 1, part.shape, col_tree, lay),
                            factors,
                            lay,
                            own["exchange"].at[group] if outputs.cols else None,
                        ),
                        sums,
                    )
                    if outputs.cols and p == 0:
                        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                    for q, numbers in enumerate(found):
                        own["cols_out"][group, q, cols] = numbers
                    if weight is not None:
                        plgpu.wait_smem_to_gmem(1, wait_read_only=True)
                        own["weights_out"][group, p % 2] = weight.astype(operand)
                        plgpu.commit_smem()
                        plgpu.copy_smem_to_gmem(
                            own["weights_out"].at[group, p % 2],
                            out["weights"].at[
                                pl.ds(row + group * ROWS, ROWS), pl.ds(col + p * PART, PART)
                            ],
                        )
                plgpu.barrier_arrive(own["cols_left"].at[half])
                if outputs.cols:
                    plgpu.commit_smem()
                    plgpu.copy_smem_to_gmem(
                        own["cols_out"].at[group],
                        out["cols"].at[2 * block + group, :, pl.ds(col, COLS)],
                    )
                return sums

            sums = lax.fori_loop(0, shape.span, tile, start(lay))
            for q, numbers in enumerate(end(sums)):
                own["rows_out"][group, q] = numbers
            if outputs.rows:
                plgpu.commit_smem()
                plgpu.copy_smem_to_gmem(
                    own["rows_out"].at[group],
                    out["rows"].at[chunk, :, pl.ds(row + group * ROWS, ROWS)],
                )
            plgpu.wait_smem_to_gmem(0)

    found = plgpu.kernel(
        kernel,
        out_type=[jax.ShapeDtypeStruct(size, dtype) for _, size, dtype in given],
        scratch_types=scratch,
        grid=(shape.blocks * shape.chunks // shape.cluster,),
        grid_names=("block",),
        num_threads=3,
        thread_name="wg",
        **together,
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=_interpreter() if shape.interpret else None,
    )(x, y, row_facts, col_facts, scales)
    # Kernels return what they call the same on all devices.
    found = vary_like(found, x)
    by_name: dict[str, Array] = {name: v for (name, _, _), v in zip(given, found, strict=True)}
    return by_name.get("rows"), by_name.get("cols"), by_name.get("weights")


def stage_bytes(dtype: Any) -> int:
    """Shared memory of one stage of both operands."""
    return (BLOCK_ROWS + COLS) * DEPTH * jnp.dtype(dtype).itemsize


def place(index: Any, shape: Sweep) -> tuple[Any, Any]:
    """The block of rows and the chunk of keys of a thread block.

    `GROUP` blocks of rows go through all chunks together: what the multiprocessors read at one
    time, a few megabytes, stays in the L2 cache, and the keys come from memory once for 4,096
    anchors.
    """
    size = GROUP * (shape.chunks // shape.cluster)
    group, place = lax.div(index, size), lax.rem(index, size)
    wide = jnp.minimum(GROUP, shape.blocks - group * GROUP)
    return group * GROUP + lax.rem(place, wide), lax.div(place, wide)


def _interpreter() -> Any:
    # Pallas has no public name for its interpreter of GPU kernels.
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

    return InterpretGPUParams()
