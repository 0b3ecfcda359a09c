"""The gradient in float64, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Exact:
    """What no rounding touches.

    Attributes:
        v: Contrastive log-odds of each anchor.
        infonce: Gradient of the sum of softplus(v) by the anchors.
        flatnce: Gradient of the sum of v, which is FlatNCE's and DCL's.
    """

    v: Float[np.ndarray, "B"]
    infonce: Float[np.ndarray, "B D"]
    flatnce: Float[np.ndarray, "B D"]

    @property
    def weights(self) -> Float[np.ndarray, "B"]:
        """sigmoid(v): what InfoNCE multiplies each anchor's FlatNCE gradient with."""
        return sigmoid(self.v)


def sigmoid(v: Float[np.ndarray, "*B"]) -> Float[np.ndarray, "*B"]:
    """1 / (1 + exp(-v)) without overflow."""
    return np.exp(-np.logaddexp(0.0, -v))


def exact(x: Float[np.ndarray, "B D"], y: Float[np.ndarray, "N D"], scale: float) -> Exact:
    """Gradients of the sum over anchors; key i is the positive of anchor i.

    d v_i / d x_i = scale (sum_j q_ij y_j - y_i), where q_i is the softmax of anchor i's scores
    over its negatives, and InfoNCE's gradient is that times sigmoid(v_i). Neither forms 1 - p.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    count = len(x)
    gaps = scale * (x @ y.T)
    own = np.arange(count)
    gaps -= gaps[own, own][:, None].copy()
    gaps[own, own] = -np.inf
    top = gaps.max(axis=1, keepdims=True)
    terms = np.exp(gaps - top)
    total = terms.sum(axis=1, keepdims=True)
    v = (np.log(total) + top)[:, 0]
    flatnce = scale * ((terms / total) @ y - y[:count])
    return Exact(v, sigmoid(v)[:, None] * flatnce, flatnce)
