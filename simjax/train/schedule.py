"""The learning rate of each update."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from simjax.errors import UsageError
from simjax.train.optimizer_config import OptimizerConfig

Schedule: TypeAlias = Callable[[Any], jax.Array]
"""Learning rate as a function of the number of updates made before (0 at the first)."""


def peak_learning_rate(config: OptimizerConfig, batch_size: int) -> float:
    """The highest learning rate of a run at ``batch_size`` examples.

    ``none`` keeps the configured rate; ``linear`` multiplies it by B / B_ref (Goyal et al. 2017,
    arXiv 1706.02677), ``sqrt`` by sqrt(B / B_ref) (Krizhevsky 2014, arXiv 1404.5997).
    """
    ratio = batch_size / config.reference_batch_size
    factor = {"none": 1.0, "sqrt": math.sqrt(ratio), "linear": ratio}[config.lr_scaling]
    return config.learning_rate * factor


def warmup_steps(config: OptimizerConfig, total_steps: int) -> int:
    """Steps over which the learning rate rises; a fraction of all steps is rounded up.

    Raises:
        UsageError: the warm-up is longer than the run.
    """
    if config.warmup < 1:
        return math.ceil(total_steps * config.warmup)
    steps = int(config.warmup)
    if steps > total_steps:
        raise UsageError(
            f"optimizer.warmup is {steps} steps and the run has {total_steps}: "
            "warm up for fewer, or give a fraction below 1"
        )
    return steps


def make_schedule(config: OptimizerConfig, total_steps: int, batch_size: int) -> Schedule:
    """Linear warm-up from 0, then the chosen decay to 0 at ``total_steps``.

    With w warm-up steps of T in all, update n (from 0) has the peak rate times n / w while n < w,
    afterwards times q (linear), (1 - cos(pi q)) / 2 (cosine), 1 (constant) or, as stairs, by which
    Contrastive Tension falls from 1e-5 to 2e-6, q rounded up to a fifth or, with ``stair_steps``
    of s, 1 - floor((n - w) / s) / 5 and at least a fifth; q = (T - n) / (T - w). All but the last
    are the ``get_*_schedule_with_warmup`` of `transformers`: the first update of a warm-up has rate
    0, the first without one the full rate.

    Raises:
        UsageError: the run has no steps, or its warm-up is longer than the run.
    """
    if total_steps < 1:
        raise UsageError(f"a run of {total_steps} steps trains nothing: give 1 or more")
    peak = peak_learning_rate(config, batch_size)
    warmup = warmup_steps(config, total_steps)

    def schedule(count: Int[Any, ""] | int) -> Float[jax.Array, ""]:
        n = jnp.asarray(count).astype(jnp.float32)
        rise = n / max(1, warmup)
        left = jnp.clip((total_steps - n) / max(1, total_steps - warmup), 0.0, 1.0)
        if config.schedule == "linear":
            fall = left
        elif config.schedule == "cosine":
            # (1 - cos x) / 2 in a form that loses no digits at the end of the run.
            fall = jnp.sin(0.5 * jnp.pi * left) ** 2
        elif config.schedule == "stairs":
            # Of whole numbers, so that no step is early or late by a rounding.
            done = jnp.clip(n - warmup, 0, max(0, total_steps - warmup - 1))
            if config.stair_steps is None:
                fallen = jnp.floor_divide(5 * done, max(1, total_steps - warmup))
            else:
                fallen = jnp.floor_divide(done, config.stair_steps)
            fall = jnp.maximum(5 - fallen, 1) / 5
        else:
            fall = jnp.ones_like(left)
        return jnp.float32(peak) * jnp.where(n < warmup, rise, fall)

    return schedule
