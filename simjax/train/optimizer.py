"""AdamW with its learning-rate schedule, weight-decay mask, clipping and a guard against NaN.

Clipping stands outside the optax transformation, so that the norm it needs is the norm that is
logged, and so that a step whose gradient is not finite can be dropped whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int

from simjax.errors import UsageError
from simjax.types import Params

Schedule: TypeAlias = Callable[[Any], jax.Array]
"""Learning rate as a function of the number of updates made before (0 at the first)."""

DECAYED = frozenset({"kernel", "embedding"})
"""Names of the leaves that decay. Biases, norms and learned temperatures are none of them."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) and its learning rate.

    Attributes:
        name: the optimiser.
        learning_rate: peak learning rate, before ``lr_scaling``.
        lr_scaling: how the peak grows with batch_size / reference_batch_size: none, its square
            root, or linear.
        reference_batch_size: batch size at which ``learning_rate`` holds as it stands.
        schedule: what follows the warm-up: linear or cosine decay to 0, or constant.
        warmup: below 1 a fraction of all steps (rounded up), from 1 on a number of steps.
        weight_decay: decoupled decay of kernels and embeddings; biases, norms and temperatures
            never decay.
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the root of the second moment.
        clip_norm: largest global gradient norm; null never clips.
    """

    name: Literal["adamw"] = "adamw"
    learning_rate: float = 5e-5
    lr_scaling: Literal["none", "sqrt", "linear"] = "none"
    reference_batch_size: int = 256
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = 0.1
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        _check("name", self.name, self.name == "adamw", "give adamw")
        _check(
            "learning_rate",
            self.learning_rate,
            0 < self.learning_rate < math.inf,
            "give a number above 0",
        )
        _check(
            "lr_scaling",
            self.lr_scaling,
            self.lr_scaling in ("none", "sqrt", "linear"),
            "give none, sqrt or linear",
        )
        _check(
            "reference_batch_size",
            self.reference_batch_size,
            self.reference_batch_size >= 1,
            "give 1 or more",
        )
        _check(
            "schedule",
            self.schedule,
            self.schedule in ("linear", "cosine", "constant"),
            "give linear, cosine or constant",
        )
        _check(
            "warmup",
            self.warmup,
            0 <= self.warmup < 1 or (self.warmup >= 1 and self.warmup == int(self.warmup)),
            "give a fraction of the steps below 1, or a whole number of steps",
        )
        _check("weight_decay", self.weight_decay, self.weight_decay >= 0, "give 0 or more")
        _check("b1", self.b1, 0 <= self.b1 < 1, "give a number from 0 to below 1")
        _check("b2", self.b2, 0 <= self.b2 < 1, "give a number from 0 to below 1")
        _check("eps", self.eps, self.eps > 0, "give a number above 0")
        _check(
            "clip_norm",
            self.clip_norm,
            self.clip_norm is None or self.clip_norm > 0,
            "give a number above 0, or null",
        )


def _check(key: str, value: object, fits: bool, mend: str) -> None:
    if not fits:
        raise UsageError(f"optimizer.{key} is {value!r}: {mend}")


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
    afterwards times q (linear), (1 - cos(pi q)) / 2 (cosine) or 1 (constant), where
    q = (T - n) / (T - w). These are the ``get_*_schedule_with_warmup`` of `transformers`: the
    first update of a warm-up has rate 0, the first without one the full rate.

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
        else:
            fall = jnp.ones_like(left)
        return jnp.float32(peak) * jnp.where(n < warmup, rise, fall)

    return schedule


def decay_mask(params: Params) -> Any:
    """True for each leaf of ``params`` that decays: those named in `DECAYED`."""

    def decays(path: tuple[Any, ...], _: Any) -> bool:
        # By what decays, not by what does not: a parameter of an unforeseen name (a learned
        # temperature, a gate) is seldom one that should be drawn to 0.
        return jax.tree_util.keystr(path[-1:], simple=True) in DECAYED

    return jax.tree_util.tree_map_with_path(decays, params)


def make(
    config: OptimizerConfig, total_steps: int, batch_size: int, params: Params
) -> tuple[optax.GradientTransformation, Schedule]:
    """Builds the optimiser, without its clipping (see `apply`), and its learning-rate schedule.

    Args:
        config: what to build.
        total_steps: updates of the whole run, which the schedule spans.
        batch_size: examples of the global batch, for the scaling of the learning rate.
        params: the parameters or their shapes; their leaf names decide which of them decay.

    Raises:
        UsageError: the run has no steps, or its warm-up is longer than the run.
    """
    schedule = make_schedule(config, total_steps, batch_size)
    tx = optax.adamw(
        schedule,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decay_mask(params),
    )
    return tx, schedule


def apply(
    tx: optax.GradientTransformation,
    grads: Params,
    opt_state: optax.OptState,
    params: Params,
    clip_norm: float | None,
    grad_norm: Float[jax.Array, ""] | None = None,
) -> tuple[Params, optax.OptState, Float[jax.Array, ""]]:
    """Clips, updates, and drops the update whole when the gradient is not finite.

    The gradients are multiplied by min(1, clip_norm / (norm + 1e-6)), PyTorch's
    ``clip_grad_norm_``. When the norm is NaN or infinite, parameters and optimiser state (its
    count included) come back as they were, and the norm says so: the caller stops the run.

    Args:
        tx: the transformation of `make`.
        grads: float32 gradients in the shape of ``params``.
        opt_state: state of ``tx``.
        params: float32 parameters.
        clip_norm: largest global norm; None never clips.
        grad_norm: global norm of ``grads`` where it is known already, or where ``grads`` are
            shards and only the caller can add them up.

    Returns:
        New parameters, new optimiser state, and the norm before clipping.
    """
    norm = optax.tree.norm(grads) if grad_norm is None else grad_norm
    if clip_norm is not None:
        scale = jnp.minimum(1.0, clip_norm / (norm + 1e-6))
        grads = jax.tree.map(lambda g: g * scale, grads)
    updates, new_state = tx.update(grads, opt_state, params)
    new_params = optax.apply_updates(params, updates)
    finite = jnp.isfinite(norm)

    def keep(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(finite, new, old)

    return (
        jax.tree.map(keep, new_params, params),
        jax.tree.map(keep, new_state, opt_state),
        norm,
    )
