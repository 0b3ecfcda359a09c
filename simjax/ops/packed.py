"""How a TPU kernel is given the facts of a side, and where it keeps its own.

Every array of a kernel has rows of 128 lanes, so a fact of each anchor, ids and factors alike, is
a row of one array of whole numbers or of one of floats, and what a kernel sums for each anchor is
a lane of another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from simjax.mesh import Tree
from simjax.ops.tiles import Cols, Rows, split

LANES = 128
SUBLANES = 8


def whole(count: int) -> int:
    """Rows of whole registers."""
    return -(-max(count, 1) // SUBLANES) * SUBLANES


class Facts(NamedTuple):
    """What a kernel is told of one side beside its vectors."""

    ids: Any
    limit: Any
    biases: Any
    factors: Any


class Packed(NamedTuple):
    """One side, padded to whole tiles, its facts in two arrays.

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

    def specs(self, size: int, axis: int) -> Any:
        """One tile at a time, along an axis of the grid."""

        def vectors(x: Array | None) -> Any:
            if x is None:
                return None
            return pl.BlockSpec((size, x.shape[1]), lambda *at: (at[axis], 0))

        def facts(x: Array | None) -> Any:
            if x is None:
                return None
            return pl.BlockSpec((None, *x.shape[1:]), lambda *at: (at[axis], 0, 0))

        return Packed(
            vectors(self.vectors), vectors(self.seen), facts(self.whole), facts(self.real)
        )

    def facts(self, like: Facts, *, upright: bool) -> Facts:
        """Inside of a kernel: a tile's, as columns [R, 1] of anchors or rows [1, C] of keys."""
        tables = {}
        for name, ref in (("int32", self.whole), ("float32", self.real)):
            if ref is not None:
                tables[name] = (ref[...].T if upright else ref[...], iter(range(ref.shape[0])))

        def one(leaf: Any) -> Array:
            table, place = tables[leaf.dtype.name]
            k = next(place)
            return table[:, k : k + 1] if upright else table[k : k + 1, :]

        return jax.tree.map(one, like)


def pack(side: Rows | Cols, factors: Any, size: int) -> tuple[Packed, Facts]:
    """A side as a kernel wants it, and the shapes of its facts, to be found again by."""
    vectors = side.x if isinstance(side, Rows) else side.y
    seen, limit = (None, None) if side.guide is None else side.guide
    facts = Facts(side.ids, limit, side.biases if isinstance(side, Cols) else (), factors)

    def stacked(dtype: Any) -> Array | None:
        found = [split(x, size) for x in jax.tree.leaves(facts) if x.dtype == dtype]
        if not found:
            return None
        return jnp.stack([*found, *[found[0]] * (whole(len(found)) - len(found))], axis=1)

    def padded(x: Array) -> Array:
        return split(x, size).reshape(-1, x.shape[-1])

    ids = stacked(jnp.int32)
    assert ids is not None  # there always are
    packed = Packed(
        padded(vectors), None if seen is None else padded(seen), ids, stacked(jnp.float32)
    )
    return packed, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), facts)


Place = Callable[[int], Any]
"""Where the k-th of a kernel's own facts is kept."""


def lane(k: int) -> tuple[slice, slice]:
    """Of the present anchors, in [R, 128]."""
    return slice(None), slice(k, k + 1)


def line(j: Any) -> Place:
    """Of the keys of column j, in [K, J, C]."""
    return lambda k: (k, pl.ds(j, 1), slice(None))


def read(ref: Any, like: Tree, place: Place) -> Tree:
    """The facts of ``like`` from where they are kept."""
    leaves, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, [ref[place(k)] for k in range(len(leaves))])


def write(ref: Any, tree: Any, place: Place) -> None:
    """Keep facts."""
    for k, leaf in enumerate(jax.tree.leaves(tree)):
        ref[place(k)] = leaf


def unpack(found: Float[Array, "F I R"], like: Tree, length: int) -> Tree:
    """Facts of all anchors or keys from what a kernel has written."""
    leaves, structure = jax.tree.flatten(like)
    lines = [found[k].reshape(-1)[:length] for k in range(len(leaves))]
    return jax.tree.unflatten(structure, lines)
