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


def evaluated(state: TrainState, which: Evaluated, part: str = "model") -> Params:
    """Parameters to evaluate and export, from a state or what `wanted` has of one.

    Args:
        state: Of the run.
        which: Newest or average.
        part: Those of the model, or of a head by its name.
    """
    if which == "ema":
        return state.average[part]
    if which == "schedule_free":
        averaging = state.opt_state._replace(z=state.opt_state.z[part])
        return contrib.schedule_free_eval_params(averaging, state.params[part])
    return state.params[part]


def wanted(shapes: Params, which: Evaluated, part: str = "model") -> TrainState:
    """What `evaluated` needs of a state, from the shapes of the part's parameters."""
    nothing: Any = None
    if which == "ema":
        return TrainState({}, (), nothing, {part: shapes})
    if which == "schedule_free":
        weight = jax.ShapeDtypeStruct((), jnp.float32)
        averaging = contrib.ScheduleFreeState(weight, nothing, nothing, nothing, (), {part: shapes})
        return TrainState({part: shapes}, averaging, nothing)
    return TrainState({part: shapes}, (), nothing)
