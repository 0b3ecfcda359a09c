"""The operator across devices: gathered keys, scattered gradients, merged columns.

The other way, in which keys go round, is `simjax.ops.ring`.

What a device sends is vectors of keys, of their gradients and of a guide (`bytes_sent`), ids, and
of column statistics a few N. Nothing grows with B N.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from simjax.mesh import Tree, axes_of, vary
from simjax.ops.reductions import Reduction

Exchange: TypeAlias = Literal["all_gather", "ring", "local"]
"""Keys of all devices at once, of one after the other, or each device's own alone."""

_FLOAT = 4
"""Bytes of a float32."""

GATHERED_BYTES = 2**30
"""Most bytes of gathered keys and their gradients, unless gathering is asked for."""


def choose_exchange(num_keys: int, width: int, dtype: DTypeLike, guide: int = 0) -> Exchange:
    """All-gather while what is held of all devices' keys (`bytes_held`) is small, else the ring."""
    needed = bytes_held("all_gather", num_keys, width, dtype, devices=1, guide=guide)
    return "all_gather" if needed <= GATHERED_BYTES else "ring"


def bytes_held(
    exchange: Exchange, num_keys: int, width: int, dtype: DTypeLike, devices: int, guide: int = 0
) -> int:
    """Bytes of keys, their float32 gradients and a guide's vectors that a device holds at a time.

    Of all ``num_keys`` if they are gathered: N (D (operand + 4) + G operand), with G the width of
    the ``guide``. On a ring it is a share of N / n keys, twice: one to work on and one on its way;
    of a device's own, once.
    """
    operand = jnp.dtype(dtype).itemsize
    vector = width * (operand + _FLOAT) + guide * operand
    if exchange == "all_gather":
        return num_keys * vector
    return (2 if exchange == "ring" else 1) * (num_keys // devices) * vector


def bytes_sent(
    exchange: Exchange, num_keys: int, width: int, dtype: DTypeLike, devices: int, guide: int = 0
) -> int:
    """Bytes of vectors that each device sends for the value and gradient of ``num_keys`` keys.

    Gathered, keys once and gradients once: (n - 1) / n N D (operand + 4). On a ring keys twice,
    forward and backward, and gradients once: N D (2 operand + 4), and N D / n floats to come home.
    A guide's vectors, of width G, go with the keys: (n - 1) / n N G operands, or 2 N G. A device's
    own are sent nowhere.
    """
    if exchange == "local":
        return 0
    operand, vectors, seen = jnp.dtype(dtype).itemsize, num_keys * width, num_keys * guide
    if exchange == "all_gather":
        sent = vectors * (operand + _FLOAT) + seen * operand
        return sent // devices * (devices - 1)
    return vectors * (2 * operand + _FLOAT) + vectors // devices * _FLOAT + 2 * seen * operand


def num_shards(x: Array) -> int:
    """Over how many devices an array is split here."""
    axes = axes_of(x)
    return jax.lax.axis_size(axes) if axes else 1


def vary_together(*trees: Any) -> tuple[Any, ...]:
    """Marks arrays as varying over every axis that one of them varies over."""
    found = {axis for x in jax.tree.leaves(trees) for axis in axes_of(x)}
    return vary(trees, tuple(found))


def gather(tree: Tree, like: Array) -> Tree:
    """All devices' keys and what belongs to them, in the order of the devices."""
    axes = axes_of(like)
    if not axes:
        return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, axes, tiled=True), tree)


def scatter(grads: Float[Array, "M ..."]) -> Float[Array, "N ..."]:
    """The transpose of `gather`: this device's keys' gradients, summed over devices."""
    axes = axes_of(grads)
    if not axes:
        return grads
    # For 256 TPUs the compiler makes a whole all-reduce of a reduce-scatter: twice the bytes, and
    # memory for all keys' gradients a second time.
    return jax.lax.platform_dependent(
        grads, tpu=ring_scatter, default=lambda x: jax.lax.psum_scatter(x, axes, tiled=True)
    )


def ring_scatter(grads: Float[Array, "M ..."]) -> Float[Array, "N ..."]:
    """A reduce-scatter whose partial sums go round the devices."""
    axes, count = axes_of(grads), num_shards(grads)
    here = jax.lax.axis_index(axes)
    parts = grads.reshape(count, -1, *grads.shape[1:])

    def own(hop: Array | int) -> Array:
        """This device's share of the sum that is here after so many hops; the last stays."""
        return jax.lax.dynamic_index_in_dim(parts, (here - 1 - hop) % count, keepdims=False)

    def turn(total: Array, hop: Array) -> tuple[Array, None]:
        return pass_on(total, grads) + own(hop), None

    return jax.lax.scan(turn, own(0), jnp.arange(1, count))[0]


def pass_on(tree: Tree, like: Array) -> Tree:
    """The arrays of the device before, in the order in which keys are gathered."""
    axes = axes_of(like)
    if not axes:
        return tree
    count = num_shards(like)
    ring = [(device, (device + 1) % count) for device in range(count)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, axes, ring), tree)


def merge_columns(col: Float[Array, "M"], kind: Reduction) -> Float[Array, "N"]:
    """The reduction over all devices' anchors of this device's keys, from each device's part."""
    axes = axes_of(col)
    if not axes:
        return col
    if kind.kind == "softplus":
        return jax.lax.psum_scatter(col, axes, tiled=True)
    top = jax.lax.pmax(jax.lax.stop_gradient(col), axes)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    total = jax.lax.psum_scatter(jnp.exp(col - top), axes, tiled=True)
    here = jax.lax.dynamic_slice_in_dim(
        top, jax.lax.axis_index(axes) * total.shape[0], total.shape[0]
    )
    some = total != 0
    return jnp.where(some, jnp.log(jnp.where(some, total, 1.0)) + here, -jnp.inf)
