"""Averages of the parameters along a run, and which parameters are evaluated and exported."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from optax import contrib

from simjax.train.state import TrainState
from simjax.types import Params

Evaluated: TypeAlias = Literal["newest", "ema", "schedule_free"]
"""The newest parameters, their moving average, or the average that schedule-free AdamW is of."""


def moving_average(average: Params, params: Params, decay: float, count: Int[Array, ""]) -> Params:
    """`d average + (1 - d) params`, with d = min(decay, (1 + n) / (10 + n)) at update n, from 0.

    The rising decay is that of TensorFlow's ExponentialMovingAverage: parameters from the start
    of a run are soon forgotten.
    """
    n = count.astype(jnp.float32)
    weight: Float[Array, ""] = 1 - jnp.minimum(decay, (1 + n) / (10 + n))
    return jax.tree.map(lambda a, p: a + weight * (p - a), average, params)


def evaluated(state: TrainState, which: Evaluated) -> Params:
    """The model's parameters to evaluate and export, from a state or what `wanted` has of one."""
    if which == "ema":
        return state.average["model"]
    if which == "schedule_free":
        averaging = state.opt_state._replace(z=state.opt_state.z["model"])
        return contrib.schedule_free_eval_params(averaging, state.params["model"])
    return state.params["model"]


def wanted(model: Params, which: Evaluated) -> TrainState:
    """What `evaluated` needs of a state; ``model`` holds the shapes of the model's parameters."""
    nothing: Any = None
    if which == "ema":
        return TrainState({}, (), nothing, {"model": model})
    if which == "schedule_free":
        weight = jax.ShapeDtypeStruct((), jnp.float32)
        averaging = contrib.ScheduleFreeState(
            weight, nothing, nothing, nothing, (), {"model": model}
        )
        return TrainState({"model": model}, averaging, nothing)
    return TrainState({"model": model}, (), nothing)
