"""Optimisers with their weight-decay mask, clipping and a guard against NaN.

Parameters are stacked layer by layer. What an optimiser takes over a whole matrix (a norm, a mean
of rows, an orthogonal factor) it takes of each layer by itself. The update is no part of the
step's `shard_map`: arrays are whole here wherever their parts lie, and so are such figures.

Clipping stands outside the optax transformation, so that the norm it needs is the norm that is
logged, and so that a step whose gradient is not finite can be dropped whole.
"""

from __future__ import annotations

from typing import Any, assert_never

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float
from optax import contrib

from simjax.train.layerwise import by_layer, scale_by_depth
from simjax.train.optimizer_config import (
    SGD,
    Adafactor,
    AdamW,
    Lamb,
    Lars,
    Muon,
    OptimizerConfig,
    RMSProp,
    ScheduleFreeAdamW,
)
from simjax.train.schedule import Schedule, make_schedule
from simjax.train.state import is_stacked
from simjax.types import Params

DECAYED = frozenset({"kernel", "embedding", "lora_a", "lora_b"})
"""Names of the leaves that decay. Biases, norms and learned temperatures are none of them."""


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path[-1:], simple=True)


def decay_mask(params: Params) -> Any:
    """True for each leaf of ``params`` that decays: those named in `DECAYED`."""
    # By what decays, not by what does not: a parameter of an unforeseen name (a learned
    # temperature, a gate) is seldom one that should be drawn to 0.
    return jax.tree_util.tree_map_with_path(lambda path, _: _name(path) in DECAYED, params)


def make(
    config: OptimizerConfig, total_steps: int, batch_size: int
) -> tuple[optax.GradientTransformation, Schedule]:
    """Builds the optimiser, without its clipping (see `apply`), and its learning-rate schedule.

    Args:
        config: what to build.
        total_steps: updates of the whole run, which the schedule spans.
        batch_size: examples of the global batch, for the scaling of the learning rate.

    Raises:
        UsageError: the run has no steps, or its warm-up is longer than the run.
    """
    schedule = make_schedule(config, total_steps, batch_size)
    tx = _transformation(config, schedule)
    if config.layer_decay != 1 and not isinstance(config, ScheduleFreeAdamW):
        tx = optax.chain(tx, scale_by_depth(config.layer_decay))
    return tx, schedule


def _transformation(config: OptimizerConfig, rate: Schedule) -> optax.GradientTransformation:
    match config:
        case AdamW():
            return _adamw(config, rate)
        case Lamb():
            return _lamb(config, rate)
        case Lars():
            return _lars(config, rate)
        case Adafactor():
            return _adafactor(config, rate)
        case Muon():
            return _muon(config, rate)
        case ScheduleFreeAdamW():
            return _schedule_free(config, rate)
        case SGD():
            return optax.chain(
                optax.add_decayed_weights(config.weight_decay, decay_mask),
                optax.sgd(rate, config.momentum, nesterov=config.nesterov),
            )
        case RMSProp():
            momentum = config.momentum or None
            return optax.chain(
                optax.add_decayed_weights(config.weight_decay, decay_mask),
                optax.scale_by_rms(config.decay, config.eps, eps_in_sqrt=False),
                *([] if momentum is None else [optax.trace(momentum)]),
                optax.scale_by_learning_rate(rate),
            )
        case _:
            assert_never(config)


def _adamw(config: AdamW | Muon, rate: Schedule) -> optax.GradientTransformation:
    return optax.adamw(
        rate,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decay_mask,
    )


def _lamb(config: Lamb, rate: Schedule) -> optax.GradientTransformation:
    return optax.chain(
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay, decay_mask),
        optax.masked(by_layer(optax.scale_by_trust_ratio()), decay_mask),
        optax.scale_by_learning_rate(rate),
    )


def _lars(config: Lars, rate: Schedule) -> optax.GradientTransformation:
    trust = optax.scale_by_trust_ratio(trust_coefficient=config.trust_coefficient)
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, decay_mask),
        optax.masked(by_layer(trust), decay_mask),
        optax.scale_by_learning_rate(rate),
        optax.trace(config.momentum, nesterov=config.nesterov),
    )


def _adafactor(config: Adafactor, rate: Schedule) -> optax.GradientTransformation:
    parts = [
        optax.scale_by_factored_rms(
            decay_rate=config.decay_exponent,
            min_dim_size_to_factor=config.factored_from,
            epsilon=config.eps,
        )
    ]
    if config.clip_rms is not None:
        parts.append(optax.clip_by_block_rms(config.clip_rms))
    if config.relative:
        parts.append(optax.scale_by_param_block_rms())
    return optax.chain(
        by_layer(optax.chain(*parts)),
        # optax.adafactor's own decay is not multiplied by the learning rate.
        optax.add_decayed_weights(config.weight_decay, decay_mask),
        optax.scale_by_learning_rate(rate),
    )


def _muon(config: Muon, rate: Schedule) -> optax.GradientTransformation:
    def axes(params: Params) -> Any:
        return jax.tree.map(
            lambda x: contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=x.ndim - 1), params
        )

    def scale(update: jax.Array) -> jax.Array:
        return update * (config.update_rms * max(update.shape[1], update.shape[-1]) ** 0.5)

    orthogonal = optax.chain(
        contrib.scale_by_muon(
            ns_steps=config.iterations,
            beta=config.momentum,
            eps=config.eps,
            nesterov=config.nesterov,
            weight_dimension_numbers=axes,
        ),
        optax.stateless(lambda updates, _: jax.tree.map(scale, updates)),
    )
    matrices = optax.chain(
        orthogonal,
        optax.add_decayed_weights(config.weight_decay, decay_mask),
        optax.scale_by_learning_rate(rate),
    )
    return optax.partition({"muon": matrices, "adamw": _adamw(config, rate)}, _muon_labels)


def _muon_labels(params: Params) -> Any:
    """`muon` for the matrices of the layers, `adamw` for all else.

    Queries, keys and values have a dimension of their own in [L, D, 3, D], and are matrices each.
    """

    def label(path: tuple[Any, ...], leaf: Any) -> str:
        matrix = is_stacked(path) and _name(path) == "kernel" and leaf.ndim > 2
        return "muon" if matrix else "adamw"

    return jax.tree_util.tree_map_with_path(label, params)


def _schedule_free(config: ScheduleFreeAdamW, rate: Schedule) -> optax.GradientTransformation:
    newest = optax.chain(
        optax.scale_by_rms(
            decay=config.b2, eps=config.eps, eps_in_sqrt=False, bias_correction=True
        ),
        optax.add_decayed_weights(config.weight_decay, decay_mask),
        optax.scale_by_learning_rate(rate),
        scale_by_depth(config.layer_decay),
    )
    return contrib.schedule_free(newest, rate, b1=config.b1, weight_lr_power=config.averaging_power)


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
