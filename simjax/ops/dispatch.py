"""Which implementation does the work: chosen for the platform that a program is lowered for.

``tiled`` serves every platform. ``pallas_tpu`` is taken on TPUs for whatever fits on the chip
(`simjax.ops.pallas_tpu.supports`): loops that XLA compiles write each tile of scores to memory and
read it again for every reduction, which kernels do not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simjax.ops import pallas_tpu, strips, tiled
from simjax.ops.reductions import PairStats
from simjax.ops.strips import RowValue
from simjax.ops.tiles import Cols, ColSums, Factors, Gradients, Rows, RowSums, Tiling, finish

Implementation: TypeAlias = Literal["tiled", "pallas_tpu"]


def reduce(
    wanted: Implementation | None,
    rows: Rows,
    cols: Cols,
    scales: Float[Array, "S"],
    tiling: Tiling,
) -> tuple[RowSums, ColSums]:
    """What is reduced for each anchor and for each key that are here."""
    return _run(
        wanted,
        partial(tiled.reduce, tiling=tiling),
        partial(pallas_tpu.reduce, tiling=tiling),
        pallas_tpu.supports(rows, cols, tiling),
        rows,
        cols,
        scales,
    )


def pull_back(
    wanted: Implementation | None,
    rows: Rows,
    cols: Cols,
    factors: Factors,
    scales: Float[Array, "S"],
    tiling: Tiling,
) -> Gradients:
    """Gradients of the anchors and keys that are here."""
    return _run(
        wanted,
        partial(tiled.pull_back, tiling=tiling),
        partial(pallas_tpu.pull_back, tiling=tiling),
        pallas_tpu.supports(rows, cols, tiling),
        rows,
        cols,
        factors,
        scales,
    )


def value_and_grad(
    wanted: Implementation | None,
    value: RowValue,
    arguments: Any,
    rows: Rows,
    cols: Cols,
    scales: Float[Array, "S"],
    tiling: Tiling,
) -> tuple[Float[Array, ""], PairStats, tuple[Any, Gradients]]:
    """A loss of rows with its gradients; see `simjax.ops.strips.value_and_grad`.

    A kernel, which writes no scores anywhere, makes them twice.
    """
    return _run(
        wanted,
        partial(strips.value_and_grad, value, tiling=tiling),
        partial(_by_kernel, value, tiling=tiling),
        pallas_tpu.supports(rows, cols, tiling),
        arguments,
        rows,
        cols,
        scales,
    )


def _by_kernel(
    value: RowValue,
    arguments: Any,
    rows: Rows,
    cols: Cols,
    scales: Float[Array, "S"],
    tiling: Tiling,
) -> tuple[Float[Array, ""], PairStats, tuple[Any, Gradients]]:
    stats = finish(*pallas_tpu.reduce(rows, cols, scales, tiling), tiling)
    values, pull = jax.vjp(value, stats.rows, arguments)
    g_rows, g_arguments = pull(jnp.ones_like(values))
    nothing = tuple(None for _ in g_rows)
    grads = PairStats(g_rows, nothing, nothing, stats.row_max)
    factors = Factors.of(stats, grads, scales, tiling)
    found = pallas_tpu.pull_back(rows, cols, factors, scales, tiling)
    return values.sum(), stats, (g_arguments, found)


def _run(
    wanted: Implementation | None,
    default: Callable[..., Any],
    tpu: Callable[..., Any],
    fits: bool,
    *operands: Any,
) -> Any:
    if wanted == "pallas_tpu":
        if not fits:
            raise ValueError("implementation: these pairs do not fit pallas_tpu; use tiled")
        return tpu(*operands)
    if wanted == "tiled" or not fits:
        return default(*operands)
    return jax.lax.platform_dependent(*operands, tpu=tpu, default=default)
