"""Part one: gradients of each form in each arithmetic against float64 on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from simjax.lab.precision import arms
from simjax.lab.precision.arms import FORMS, Arithmetic, Form, dense_loss
from simjax.lab.precision.exact import Exact, exact
from simjax.lab.precision.settings import ArithmeticSettings
from simjax.lab.precision.tiled import tiled_loss

Figures = dict[str, Any]


def arithmetics() -> tuple[Arithmetic, ...]:
    """What this machine can compute in: tf32 is a GPU's."""
    tf32 = (arms.TF32,) if jax.default_backend() == "gpu" else ()
    sixteen = (arms.BFLOAT16_OPERANDS, arms.FLOAT16_OPERANDS, arms.BFLOAT16, arms.FLOAT16)
    return (arms.FLOAT32, *tf32, *sixteen)


def keys(settings: ArithmeticSettings) -> Iterator[dict[str, Any]]:
    """What is measured, largest batches last."""
    for batch in settings.batches:
        for temperature in settings.temperatures:
            for noise in settings.noise:
                for draw in range(settings.draws):
                    yield {
                        "batch": batch,
                        "temperature": temperature,
                        "noise": noise,
                        "draw": draw,
                    }


def draw(
    batch: int, noise: float, number: int, width: int
) -> tuple[Float[np.ndarray, "B D"], Float[np.ndarray, "B D"]]:
    """Random unit vectors, and as many positives at a distance of about `noise`."""
    random = np.random.default_rng((batch, round(1000 * noise), number))
    x, towards = (_unit(random.standard_normal((batch, width))) for _ in range(2))
    return x.astype(np.float32), _unit(x + noise * towards).astype(np.float32)


def _unit(x: Float[np.ndarray, "B D"]) -> Float[np.ndarray, "B D"]:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def measure(key: dict[str, Any], settings: ArithmeticSettings) -> Figures:
    """Errors of all forms in all arithmetics on one draw.

    Returns:
        `exact`, without any rounding: see `_exact_figures`. `errors`: for each arithmetic, `dense`
        and `tiled`, and form: [relative error, cosine, length over the exact length].
        `dcl_apart`: the largest difference between a component of DCL's gradient and FlatNCE's.
    """
    batch, scale = key["batch"], 1 / key["temperature"]
    parts = max(1, settings.pooled // batch)
    inputs = [
        draw(batch, key["noise"], key["draw"] * parts + part, settings.width)
        for part in range(parts)
    ]
    inputs = [(x[: settings.anchors], y) for x, y in inputs]
    errors: Figures = {}
    apart = 0.0
    for how in arithmetics():
        rounded = [(x.astype(how.operands), y.astype(how.operands)) for x, y in inputs]
        truth = _pool([exact(x, y, scale) for x, y in rounded])
        ways = {"dense": _dense(how)}
        if how.scores == jnp.float32 and not how.tf32:
            # The operator's scores are float32 always, and it never uses tf32.
            ways["tiled"] = _tiled(how)
        for name, gradients in ways.items():
            made = [gradients(x, y, jnp.float32(scale)) for x, y in rounded]
            found = {
                form: np.concatenate([np.asarray(part[form], np.float64) for part in made])
                for form in FORMS
            }
            errors.setdefault(how.name, {})[name] = {
                form: compare(
                    found[form], truth.flatnce if form in ("dcl", "flatnce") else truth.infonce
                )
                for form in FORMS
            }
            apart = max(apart, float(np.abs(found["dcl"] - found["flatnce"]).max()))
    return {
        "dcl_apart": apart,
        "exact": _exact_figures(_pool([exact(x, y, scale) for x, y in inputs])),
        "errors": errors,
    }


def _pool(parts: list[Exact]) -> Exact:
    return Exact(
        np.concatenate([part.v for part in parts]),
        np.concatenate([part.infonce for part in parts]),
        np.concatenate([part.flatnce for part in parts]),
    )


Gradients = Callable[..., dict[Form, Float[Array, "B D"]]]


@cache
def _dense(how: Arithmetic) -> Gradients:
    @jax.jit
    def gradients(x: Array, y: Array, scale: Array) -> dict[Form, Array]:
        return {
            form: jax.grad(lambda x, form=form: dense_loss(form, x, y, scale, how))(x)
            for form in FORMS
        }

    return gradients


@cache
def _tiled(how: Arithmetic) -> Gradients:
    @jax.jit
    def gradients(x: Array, y: Array, scale: Array) -> dict[Form, Array]:
        # Rounded already, so that the positive's score sees what the tiles see.
        x, y = x.astype(jnp.float32), y.astype(jnp.float32)
        return {
            form: jax.grad(lambda x, form=form: tiled_loss(form, x, y, scale, how.operands))(x)
            for form in FORMS
        }

    return gradients


def compare(
    found: Float[np.ndarray, "B D"], truth: Float[np.ndarray, "B D"]
) -> tuple[float, float, float]:
    """Relative error |g - g*| / |g*|, cosine, and |g| / |g*| of a whole gradient.

    The cosine of a gradient that has become zero is 0. One that is not finite counts as an error
    of 1, as if it were dropped.
    """
    if not np.isfinite(found).all():
        return 1.0, 0.0, 0.0
    length, true_length = np.linalg.norm(found), np.linalg.norm(truth)
    error = np.linalg.norm(found - truth) / true_length
    cosine = float((found * truth).sum() / (length * true_length)) if length else 0.0
    return float(error), cosine, float(length / true_length)


def _exact_figures(truth: Exact) -> Figures:
    """What the factor sigmoid(v) does to a gradient, in float64.

    Returns:
        `mean_v`; `mean_weight`, the mean of sigmoid(v); `weight_cv`, its standard deviation over
        its mean; `length_ratio`, |InfoNCE's gradient| / |FlatNCE's|; `cosine` between the two,
        which no global scale changes.
    """
    weights = truth.weights
    _, cosine, ratio = compare(truth.infonce, truth.flatnce)
    return {
        "mean_v": float(truth.v.mean()),
        "mean_weight": float(weights.mean()),
        "weight_cv": float(weights.std() / weights.mean()),
        "length_ratio": ratio,
        "cosine": cosine,
    }
