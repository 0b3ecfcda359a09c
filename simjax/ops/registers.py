"""Parts of tiles in the registers of a warpgroup, and what is known of their rows and columns."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

_EVERYTHING = ((),) if "idx" in inspect.signature(plgpu.load).parameters else ()
"""The index that JAX before 0.11 wants to be told."""


@dataclass(frozen=True)
class Lay:
    """Where arrays lie in a warpgroup's registers, of which the interpreter knows nothing."""

    interpret: bool

    def full(self, shape: tuple[int, int], value: float) -> Float[Array, "R C"]:
        """An array of one number, as sums lie."""
        x = jnp.full(shape, value, jnp.float32)
        return x if self.interpret else plgpu.layout_cast(x, plgpu.Layout.WGMMA)

    def facts(self, ref: Any, axis: int) -> Int[Array, "M"]:
        """Facts in shared memory, as they meet a tile along ``axis``."""
        if self.interpret:
            return ref[...]
        layout = plgpu.Layout.WGMMA.reduce(1 - axis)
        return plgpu.load(ref, *_EVERYTHING, layout=layout, optimized=False)

    def over_rows(self, op: str, x: Float[Array, "R C"], scratch: Any) -> Float[Array, "C"]:
        """The sum (``add``) or largest of each column, through this warpgroup's own scratch.

        Pallas' own reduction over rows has one scratch for all warpgroups, which are not in step.
        """
        if self.interpret:
            return x.sum(axis=0) if op == "add" else x.max(axis=0)
        layout = plgpu.Layout.WGMMA
        result = plgpu.ShapeDtypeStruct(x.shape[1:], x.dtype, layout=layout.reduce(0))

        @plgpu.inline_mgpu(arg_types=(layout, plgpu.RefType()), return_type=result)
        def reduce(_: Any, x: Any, scratch: Any) -> Any:
            return x.reduce(op, 0, scratch)

        return reduce(x, scratch)


def along(x: Array, axis: int, shape: tuple[int, ...]) -> Array:
    """Numbers of rows (axis 0) or columns (axis 1), as an array of all pairs."""
    return lax.broadcast_in_dim(x, shape, (axis,))


def pack(tree: Any) -> tuple[Int[Array, "F M"], Any]:
    """Arrays as rows of one, which is copied whole, and what it takes to tell them apart."""
    leaves, structure = jax.tree.flatten(tree)
    bits = [lax.bitcast_convert_type(leaf, jnp.int32) for leaf in leaves]
    return jnp.stack(bits), (structure, [leaf.dtype for leaf in leaves])


def unpack(refs: list[Any], axis: int, shape: tuple[int, ...], tree: Any, lay: Lay) -> Any:
    """The tree that was packed, from its rows in shared memory, each of all pairs of a part."""
    structure, dtypes = tree
    facts = [along(lay.facts(ref, axis), axis, shape) for ref in refs]
    leaves = [lax.bitcast_convert_type(x, t) for x, t in zip(facts, dtypes, strict=True)]
    return jax.tree.unflatten(structure, leaves)


def columns_of(x: Float[Array, "R C"], size: int) -> list[Float[Array, "R c"]]:
    """Cuts columns into pieces."""
    rows, cols = x.shape
    return [lax.slice(x, (0, c), (rows, c + size)) for c in range(0, cols, size)]


@dataclass(frozen=True)
class Part:
    """Some columns of a tile, as a caller of `sweep` gets them.

    Attributes:
        cosines: Of a warpgroup's rows with these columns.
        rows: Facts of the rows, each of all pairs.
        cols: Facts of the columns, likewise.
        scales: Of the reductions.
        lay: How registers are laid out.
        scratch: Shared memory for sums over rows.
    """

    cosines: Float[Array, "R C"]
    rows: Any
    cols: Any
    scales: list[Float[Array, ""]]
    lay: Lay
    scratch: Any

    def over_rows(self, op: str, x: Float[Array, "R C"]) -> Float[Array, "C"]:
        """The sum (``add``) or largest (``max``) of each column."""
        return self.lay.over_rows(op, x, self.scratch)
