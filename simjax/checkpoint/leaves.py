"""A training state as named arrays, which is what a checkpoint holds.

Any pytree goes in (dataclasses, optax's named tuples, typed keys); on disk there is one array per
leaf under its path, `params.layers.kernel`, and a table of shapes and types. The classes of the
state are no part of a checkpoint, and a difference can be told leaf by leaf.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import Sharding, SingleDeviceSharding
from jaxtyping import PyTree

from simjax.errors import SimjaxError

Named: TypeAlias = dict[str, Any]
Table: TypeAlias = dict[str, dict[str, Any]]
"""Of each leaf its `shape` (list of int) and `dtype` (name)."""


def name_leaves(tree: PyTree) -> Named:
    """The leaves of ``tree`` by their path, joined with dots.

    Raises:
        TypeError: a leaf is no array (nor the shape of one).
        ValueError: two leaves have the same name, because a key contains a dot.
    """
    named: Named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "value"
        if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
            raise TypeError(f"{name} is {type(leaf).__name__}; checkpoints hold jax arrays only")
        if name in named:
            raise ValueError(f"two leaves of the state are called {name}")
        named[name] = leaf
    return named


def describe(named: Named) -> Table:
    """Shape and type of each leaf, as JSON can hold them."""
    return {
        name: {"shape": list(leaf.shape), "dtype": str(leaf.dtype)} for name, leaf in named.items()
    }


def to_arrays(named: Named) -> dict[str, jax.Array]:
    """What goes to disk: typed keys as their words; leaves without elements are left out."""
    # Orbax refuses arrays of size 0 and forgets the type of keys: the table remembers both.
    return {
        name: jax.random.key_data(leaf) if _is_key(leaf) else leaf
        for name, leaf in named.items()
        if leaf.size
    }


def to_targets(named: Named) -> dict[str, jax.ShapeDtypeStruct]:
    """What Orbax is asked for, given the wanted leaves: shapes and types with shardings."""
    targets = {}
    for name, leaf in named.items():
        if not leaf.size:
            continue
        words = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        targets[name] = jax.ShapeDtypeStruct(words.shape, words.dtype, sharding=_sharding(leaf))
    return targets


def from_arrays(arrays: Mapping[str, jax.Array], target: PyTree) -> PyTree:
    """Puts arrays read from disk into the structure of ``target``."""
    leaves = []
    for name, leaf in name_leaves(target).items():
        if not leaf.size:
            leaves.append(jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), _sharding(leaf)))
        elif _is_key(leaf):
            kind = jax.random.key_impl(jnp.empty((), leaf.dtype))
            leaves.append(jax.random.wrap_key_data(arrays[name], impl=kind))
        else:
            leaves.append(arrays[name])
    return jax.tree.unflatten(jax.tree.structure(target), leaves)


def check(stored: Table, wanted: Table, where: str, *, partial: bool = False) -> None:
    """Holds what a checkpoint has to what the caller wants.

    Args:
        stored: table of the checkpoint.
        wanted: table of the target.
        where: the checkpoint, for the message.
        partial: whether the checkpoint may hold leaves that the target does not have.

    Raises:
        SimjaxError: naming the first leaf that is missing, left over, or of another shape or type.
    """
    mend = "build the state with the configuration that the run was started with"
    for name, want in wanted.items():
        have = stored.get(name)
        if have is None:
            raise SimjaxError(f"{where}: has no {name}, which this state needs; {mend}")
        for key in ("shape", "dtype"):
            if have[key] != want[key]:
                raise SimjaxError(
                    f"{where}: {name} has {key} {have[key]}, this state wants {want[key]}; {mend}"
                )
    if not partial:
        for name in stored:
            if name not in wanted:
                raise SimjaxError(f"{where}: holds {name}, which this state does not have; {mend}")


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _sharding(leaf: Any) -> Sharding:
    # A target that asks for no place gets this process's first device.
    return leaf.sharding or SingleDeviceSharding(jax.local_devices()[0])
