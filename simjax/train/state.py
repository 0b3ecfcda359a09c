"""The state of a run, laid out over the mesh."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jaxtyping import Array, Int

from simjax import mesh as meshes
from simjax.mesh import AnyMesh
from simjax.models.encoder import tensor_axis
from simjax.types import Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a step changes. Dropout keys follow from the seed and `step`.

    Attributes:
        params: float32 parameters.
        opt_state: State of the optimiser.
        step: Updates made.
        average: Moving average of the parameters, where one is kept.
    """

    params: Params
    opt_state: optax.OptState
    step: Int[Array, ""] | Any
    average: Params | Any = None


def is_stacked(path: tuple[Any, ...]) -> bool:
    """Whether a parameter's first dimension counts layers."""
    return any(getattr(key, "key", None) == "layers" for key in path)


def state_specs(
    params: Params, tx: optax.GradientTransformation, mesh: AnyMesh, *, average: bool = False
) -> TrainState:
    """A state of partitions, one for each leaf, all by one rule.

    Moments have the shapes of their parameters and so lie as they do; what an optimiser keeps in
    other shapes (means of rows and columns) is split by its own.
    """
    state = jax.eval_shape(partial(_first, tx, average), params)
    return meshes.param_specs(state, mesh, stacked=is_stacked, tensor_axis=tensor_axis)


def _first(tx: optax.GradientTransformation, average: bool, params: Params) -> TrainState:
    # Copied, since a state is donated: no two leaves may be one array.
    mean = jax.tree.map(jnp.copy, params) if average else None
    return TrainState(params, tx.init(params), jnp.zeros((), jnp.int32), mean)


def shardings(specs: TrainState, mesh: AnyMesh) -> TrainState:
    """Partitions as shardings of a mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=meshes.is_spec)


def init_state(
    params: Params, tx: optax.GradientTransformation, mesh: AnyMesh, *, average: bool = False
) -> TrainState:
    """The state before the first step, each leaf made where it will lie."""
    places = shardings(state_specs(params, tx, mesh, average=average), mesh)
    return jax.jit(partial(_first, tx, average), out_shardings=places)(params)


def abstract_state(
    params: Params, tx: optax.GradientTransformation, mesh: AnyMesh, *, average: bool = False
) -> TrainState:
    """Shapes, types and shardings of the state, to restore a checkpoint into."""
    shapes = jax.eval_shape(partial(_first, tx, average), params)
    places = shardings(state_specs(params, tx, mesh, average=average), mesh)
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places
    )
