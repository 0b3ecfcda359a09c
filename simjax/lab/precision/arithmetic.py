"""Part one: gradients of each form in each arithmetic against float64 on the same inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from simjax.lab.precision import arms
from simjax.lab.precision.arms import Arithmetic, dense_loss
from simjax.lab.precision.exact import Exact, exact
from simjax.lab.precision.settings import FORMS, ArithmeticSettings, Form
from simjax.lab.precision.tiled import tiled_loss

Figures = dict[str, Any]


def arithmetics() -> tuple[Arithmetic, ...]:
    """What this machine can compute in: tf32 is a GPU's."""
    tf32 = (arms.TF32,) if jax.default_backend() == "gpu" else ()
    sixteen = (arms.BFLOAT16_OPERANDS, arms.FLOAT16_OPERANDS, arms.BFLOAT16, arms.FLOAT16)
    return (arms.FLOAT32, *tf32, *sixteen)


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
        `exact`, without any rounding: see `_exact_figures`; medians over the batches of the draw.
        `errors`: for each arithmetic, `dense` and `tiled`, and form: [relative error, cosine,
        length over the exact length] of the gradients of all the draw's batches together; three
        times None where they are not finite. `dcl_apart`: the largest difference between a
        component of DCL's gradient and FlatNCE's; None where one of two is not finite.
    """
    batch, scale = key["batch"], 1 / key["temperature"]
    parts = max(1, settings.pooled // batch)
    inputs = [
        draw(batch, key["noise"], key["draw"] * parts + part, settings.width)
        for part in range(parts)
    ]
    inputs = [(x[: settings.anchors], y) for x, y in inputs]
    errors: Figures = {}
    apart: list[float] = []
    for how in arithmetics():
        rounded = [(x.astype(how.operands), y.astype(how.operands)) for x, y in inputs]
        truth = _pool([exact(x, y, scale) for x, y in rounded])
        ways = {"dense": _dense(how)}
        if how in (arms.FLOAT32, arms.BFLOAT16_OPERANDS):
            # What the operator takes: its scores are float32 always, and it never uses tf32.
            ways["tiled"] = _tiled(how, scale)
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
            apart.append(largest_gap(found["dcl"], found["flatnce"]))
    each = [_exact_figures(exact(x, y, scale)) for x, y in inputs]
    largest = float(np.max(apart))
    return {
        "dcl_apart": largest if math.isfinite(largest) else None,
        "exact": {name: float(np.median([one[name] for one in each])) for name in each[0]},
        "errors": errors,
    }


def largest_gap(a: Float[np.ndarray, "B D"], b: Float[np.ndarray, "B D"]) -> float:
    """Largest difference of two components; NaN equals NaN, and nothing else."""
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.abs(a - b)[~same], nan=np.inf, posinf=np.inf).max())


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
def _tiled(how: Arithmetic, max_scale: float) -> Gradients:
    @jax.jit
    def gradients(x: Array, y: Array, scale: Array) -> dict[Form, Array]:
        # Rounded already, so that the positive's score sees what the tiles see.
        x, y = x.astype(jnp.float32), y.astype(jnp.float32)
        return {
            form: jax.grad(
                lambda x, form=form: tiled_loss(form, x, y, scale, how.operands, max_scale)
            )(x)
            for form in FORMS
        }

    return gradients


def compare(
    found: Float[np.ndarray, "B D"], truth: Float[np.ndarray, "B D"]
) -> tuple[float | None, float | None, float | None]:
    """Relative error |g - g*| / |g*|, cosine, and |g| / |g*| of a whole gradient.

    The cosine of a gradient that has become zero is 0. All are None of one that is not finite.
    """
    if not np.isfinite(found).all():
        return None, None, None
    length, true_length = np.linalg.norm(found), np.linalg.norm(truth)
    error = np.linalg.norm(found - truth) / true_length
    cosine = float((found * truth).sum() / (length * true_length)) if length else 0.0
    return float(error), cosine, float(length / true_length)


def _exact_figures(truth: Exact) -> dict[str, Any]:
    """What the factor sigmoid(v) does to the gradient of one batch, in float64.

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
