"""Unit vectors around a mean direction, from the von Mises-Fisher distribution of a fixed kappa.

Its density on the sphere in d dimensions is proportional to exp(kappa mu . z). The angle between z
and mu then has a density proportional to exp(kappa cos a) sin(a)^(d - 2), from 0 to pi, and around
mu all directions are equally likely (Ulrich 1984; Wood 1994, Communications in Statistics 23). As
kappa is fixed the angle depends on nothing that is learned: it is read from a table of quantiles,
which is made once in float64, and the gradient goes through mu alone (kexue.fm 8404).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Key

_STEPS = 1 << 16
"""Of the angle, in numerical integrals."""
_QUANTILES = 1 << 12


class Angles(NamedTuple):
    """The distribution of the angle to the mean direction.

    Attributes:
        quantiles: Angles in radians whose share of smaller ones is (1 - cos(pi i / n)) / 2, for i
            from 0 to n: close together at both ends, where quantiles are far apart.
        divergence: KL divergence from the uniform distribution on the sphere, in nats.
    """

    quantiles: Float64[np.ndarray, "n"]
    divergence: float


@cache
def angles(size: int, kappa: float) -> Angles:
    """The angle's distribution.

    Args:
        size: Dimensions, at least 2.
        kappa: Concentration, above 0.
    """
    angle = np.linspace(0.0, np.pi, _STEPS + 1)
    # Logarithms, as of many dimensions or a large kappa both factors underflow where the other is
    # largest. sin(pi) is not quite 0 in floating point.
    end = [0.0 if size == 2 else -np.inf]
    log_sines = np.concatenate([end, (size - 2) * np.log(np.sin(angle[1:-1])), end])
    log_density = log_sines + kappa * (np.cos(angle) - 1.0)
    largest = log_density.max()
    density = np.exp(log_density - largest)
    share = np.concatenate([[0.0], np.cumsum(_pieces(density))])
    whole = share[-1]
    wanted = (1.0 - np.cos(np.linspace(0.0, np.pi, _QUANTILES + 1))) / 2.0
    quantiles = np.interp(wanted, share / whole, angle)
    # E log(q / u), u being the uniform distribution: both have the same measure around the mean.
    mean_cosine = _pieces(density * np.cos(angle)).sum() / whole
    log_whole = largest + np.log(whole)
    divergence = kappa * (mean_cosine - 1.0) - log_whole + np.log(_pieces(np.exp(log_sines)).sum())
    return Angles(quantiles, float(divergence))


def _pieces(values: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "m"]:
    """The integral of a function of the angle, step by step, by the trapezoidal rule."""
    return 0.5 * (values[1:] + values[:-1]) * (np.pi / _STEPS)


def sample(
    key: Key[Array, ""], mean: Float[Array, "*B d"], quantiles: Float[np.ndarray, "n"]
) -> Float[Array, "*B d"]:
    """One vector around each mean direction: cos(a) mu + sin(a) v, v a direction orthogonal to mu.

    Args:
        key: Of the draws.
        mean: Unit vectors, float32.
        quantiles: As of `angles`, of as many dimensions.
    """
    shares, directions = jax.random.split(key)
    table = jnp.asarray(quantiles, jnp.float32)
    last = table.shape[0] - 1
    uniform = jax.random.uniform(shares, mean.shape[:-1])
    # The inverse of the table's spacing: where between its entries that share stands.
    place = jnp.arcsin(jnp.sqrt(uniform)) * (2 * last / np.pi)
    below = jnp.clip(place.astype(jnp.int32), 0, last - 1)
    near, far = table[below], table[below + 1]
    angle = (near + (place - below.astype(place.dtype)) * (far - near))[..., None]
    around = jax.random.normal(directions, mean.shape)
    # Twice: what is left of a vector that lay nearly along the mean is rounding to a large part.
    for _ in range(2):
        across = around - jnp.sum(around * mean, axis=-1, keepdims=True) * mean
        around = across * jax.lax.rsqrt(jnp.sum(jnp.square(across), axis=-1, keepdims=True) + 1e-20)
    return jnp.cos(angle) * mean + jnp.sin(angle) * around
