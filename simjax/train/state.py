"""The state of a run, laid out over the mesh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import P
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Int

from simjax import mesh as meshes
from simjax.types import Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a step changes. Dropout keys follow from the seed and `step`.

    Attributes:
        params: float32 parameters.
        opt_state: State of the optimiser.
        step: Updates made.
    """

    params: Params
    opt_state: optax.OptState
    step: Int[Array, ""] | Any


def is_stacked(path: tuple[Any, ...]) -> bool:
    """Whether a parameter's first dimension counts layers."""
    return any(getattr(key, "key", None) == "layers" for key in path)


def state_specs(params: Params, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """A state of partitions, one for each leaf: optimiser moments lie as their parameters do."""
    specs = meshes.param_specs(params, mesh, stacked=is_stacked)
    opt_state = jax.eval_shape(tx.init, params)
    opt_specs = optax.tree_utils.tree_map_params(
        tx, lambda _, spec: spec, opt_state, specs, transform_non_params=lambda _: P()
    )
    return TrainState(specs, opt_specs, P())


def shardings(specs: TrainState, mesh: Mesh) -> TrainState:
    """Partitions as shardings of a mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=meshes.is_spec)


def init_state(params: Params, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state before the first step, each leaf made where it will lie."""
    places = shardings(state_specs(params, tx, mesh), mesh)

    def make(params: Params) -> TrainState:
        return TrainState(params, tx.init(params), jnp.zeros((), jnp.int32))

    return jax.jit(make, out_shardings=places)(params)


def abstract_state(params: Params, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shapes, types and shardings of the state, to restore a checkpoint into."""
    shapes = jax.eval_shape(
        lambda params: TrainState(params, tx.init(params), jnp.zeros((), jnp.int32)), params
    )
    places = shardings(state_specs(params, tx, mesh), mesh)
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places
    )
