"""Which implementation does the work: chosen for the platform that a program is lowered for.

``tiled`` serves every platform. ``pallas_tpu`` is taken on TPUs for whatever fits on the chip
(`simjax.ops.pallas_tpu.supports`): loops that XLA compiles write each tile of scores to memory and
read it again for every reduction, which kernels do not. ``pallas_gpu``, for Hopper, is taken where
it is asked for: it has not been measured against ``tiled``, which GPUs get, in larger tiles.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simjax.ops import pallas_gpu, pallas_tpu, strips, tiled
from simjax.ops.reductions import PairStats
from simjax.ops.strips import RowValue
from simjax.ops.tiles import Cols, ColSums, Factors, Gradients, Rows, RowSums, Tiling, finish

Implementation: TypeAlias = Literal["tiled", "pallas_tpu", "pallas_gpu"]

_KERNELS: dict[str, ModuleType] = {"pallas_tpu": pallas_tpu, "pallas_gpu": pallas_gpu}


def reduce(
    wanted: Implementation | None,
    rows: Rows,
    cols: Cols,
    scales: Float[Array, "S"],
    tiling: Tiling,
) -> tuple[RowSums, ColSums]:
    """What is reduced for each anchor and for each key that are here."""

    def by(module: ModuleType) -> Any:
        return partial(module.reduce, tiling=tiling)

    return _run(wanted, by, by(tiled), rows, cols, (rows, cols, scales), tiling)


def pull_back(
    wanted: Implementation | None,
    rows: Rows,
    cols: Cols,
    factors: Factors,
    scales: Float[Array, "S"],
    tiling: Tiling,
) -> Gradients:
    """Gradients of the anchors and keys that are here."""

    def by(module: ModuleType) -> Any:
        return partial(module.pull_back, tiling=tiling)

    return _run(wanted, by, by(tiled), rows, cols, (rows, cols, factors, scales), tiling)


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

    def by(module: ModuleType) -> Any:
        return partial(_by_kernel, module, value, tiling=tiling)

    default = partial(strips.value_and_grad, value, tiling=tiling)
    return _run(wanted, by, default, rows, cols, (arguments, rows, cols, scales), tiling)


def _by_kernel(
    kernel: ModuleType,
    value: RowValue,
    arguments: Any,
    rows: Rows,
    cols: Cols,
    scales: Float[Array, "S"],
    tiling: Tiling,
) -> tuple[Float[Array, ""], PairStats, tuple[Any, Gradients]]:
    sums, columns = kernel.reduce(rows, cols, scales, tiling)
    stats = finish(sums, columns, tiling)
    values, pull = jax.vjp(value, stats.rows, arguments)
    g_rows, g_arguments = pull(jnp.ones_like(values))
    nothing = tuple(None for _ in g_rows)
    grads = PairStats(g_rows, nothing, nothing, stats.row_max)
    factors = Factors.of(stats, grads, scales, tiling)
    return values.sum(), stats, (g_arguments, kernel.pull_back(rows, cols, factors, scales, tiling))


def _run(
    wanted: Implementation | None,
    by: Any,
    default: Any,
    rows: Rows,
    cols: Cols,
    operands: tuple[Any, ...],
    tiling: Tiling,
) -> Any:
    """Calls what was asked for, or what suits the platform.

    Raises:
        ValueError: The kernel that was asked for cannot serve these pairs.
    """
    if wanted not in (None, *get_args(Implementation)):
        names = ", ".join(get_args(Implementation))
        raise ValueError(f"implementation {wanted!r}: choose one of reference, {names}")
    if wanted in _KERNELS:
        if not _KERNELS[wanted].supports(rows, cols, tiling):
            raise ValueError(f"implementation: {wanted} does not serve these pairs; use tiled")
        return by(_KERNELS[wanted])(*operands)
    on_gpu = partial(default, tiling=replace(tiling, on_gpu=True))
    if wanted == "tiled" or not pallas_tpu.supports(rows, cols, tiling):
        return jax.lax.platform_dependent(*operands, cuda=on_gpu, default=default)
    kernel = jax.custom_jvp(by(pallas_tpu))
    # A kernel has no derivative of its own. First ones do not need it; second ones get loops.
    kernel.defjvp(lambda primals, tangents: jax.jvp(default, primals, tangents))
    return jax.lax.platform_dependent(*operands, tpu=kernel, cuda=on_gpu, default=default)
