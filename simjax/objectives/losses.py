"""Softmax-family losses as scalar functions of the contrastive log-odds.

With v = logsumexp over negatives j of (s_j - s_positive), every one of them is a function of v
alone, so none forms the difference of two large numbers that loses InfoNCE's gradient once the
positive dominates.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def infonce(v: Float[Array, "..."]) -> Float[Array, "..."]:
    """softplus(v) = -log(exp(s_p) / (exp(s_p) + sum_j exp(s_j))).

    Gradient sigmoid(v). van den Oord et al. 2018 (arXiv 1807.03748); SimCSE (arXiv 2104.08821).
    """
    return jax.nn.softplus(v)


def joint_infonce(v: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(2 + exp(v)): the joint loss of GTE (arXiv 2308.03281), equation 3.

    Its denominator holds the positive twice, once from either side, so it is at least log 2.
    """
    return jnp.logaddexp(v, jnp.asarray(math.log(2), v.dtype))


def dcl(v: Float[Array, "..."]) -> Float[Array, "..."]:
    """V itself: decoupled contrastive learning. Gradient 1. Yeh et al. 2021 (arXiv 2110.06848)."""
    return v


def flatnce(v: Float[Array, "..."]) -> Float[Array, "..."]:
    """FlatNCE: the gradient of exp(v - stop_gradient(v)), which is 1; the value of InfoNCE.

    Its own value is 1 whatever v is, so InfoNCE's is reported. Chen et al. 2021 (arXiv 2107.01152).
    """
    return jax.nn.softplus(jax.lax.stop_gradient(v)) + (v - jax.lax.stop_gradient(v))
