"""The operator across devices: gathered keys, scattered gradients, merged columns.

Bytes that each of ``n`` devices sends for ``N`` keys of width ``D``: the all-gather of keys,
(n - 1) / n N D times the operands' size; the reduce-scatter of key gradients, (n - 1) / n N D
floats; of column statistics a few N. Nothing grows with B N.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simjax.mesh import AXES, axes_of, vary
from simjax.ops.pairs import KeyIds


def num_shards(x: Array) -> int:
    """Over how many devices an array is split here."""
    axes = axes_of(x)
    return jax.lax.axis_size(axes) if axes else 1


def vary_together(*trees: Any) -> tuple[Any, ...]:
    """Marks arrays as varying over every axis that one of them varies over."""
    found = {axis for x in jax.tree.leaves(trees) for axis in axes_of(x)}
    return vary(trees, tuple(axis for axis in AXES if axis in found))


def gather_keys(keys: Float[Array, "N D"], ids: KeyIds) -> tuple[Float[Array, "M D"], KeyIds]:
    """All devices' keys and ids, in the order of the devices."""
    axes = axes_of(keys)
    if not axes:
        return keys, ids
    return jax.tree.map(lambda x: jax.lax.all_gather(x, axes, tiled=True), (keys, ids))


def scatter_grads(grads: Float[Array, "M D"]) -> Float[Array, "N D"]:
    """The transpose of `gather_keys`: this device's keys' gradients, summed over devices."""
    axes = axes_of(grads)
    return jax.lax.psum_scatter(grads, axes, tiled=True) if axes else grads


def merge_columns(col: Float[Array, "M"]) -> Float[Array, "N"]:
    """Log-sum-exp over devices of each key's column, for this device's keys."""
    axes = axes_of(col)
    if not axes:
        return col
    top = jax.lax.pmax(jax.lax.stop_gradient(col), axes)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    total = jax.lax.psum_scatter(jnp.exp(col - top), axes, tiled=True)
    here = jax.lax.dynamic_slice_in_dim(
        top, jax.lax.axis_index(axes) * total.shape[0], total.shape[0]
    )
    some = total != 0
    return jnp.where(some, jnp.log(jnp.where(some, total, 1.0)) + here, -jnp.inf)
