"""Linear probes: how much of a class can be read off embeddings by a linear layer and softmax."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from simjax.errors import SimjaxError
from simjax.eval.moments import Moments


@dataclass(frozen=True)
class LinearDiscriminant:
    """Softmax regression in closed form, for classes that are Gaussians of one covariance.

    With class means ``m``, shares ``p`` and the pooled covariance ``S``, Bayes' rule gives the
    posterior ``softmax(W x + b)`` with ``W_c = S^-1 m_c`` and ``b_c = ln p_c - m_c^T S^-1 m_c / 2``
    (Hastie, Tibshirani & Friedman 2009, section 4.3): what logistic regression tends to when the
    classes are such Gaussians, without its iterations. Moments are all it takes, so that one pass
    over any number of rows fits it.

    Attributes:
        weights: `W`, in float64.
        bias: `b`; minus infinity for a class without rows.
    """

    weights: Float[np.ndarray, "C D"]
    bias: Float[np.ndarray, "C"]

    @classmethod
    def fit(cls, moments: Moments, shrinkage: float = 0.0) -> LinearDiscriminant:
        """The solution for one shrinkage of the covariance; see `path`."""
        return cls.path(moments, [shrinkage])[0]

    @classmethod
    def path(cls, moments: Moments, shrinkages: Sequence[float]) -> list[LinearDiscriminant]:
        """The solutions for several shrinkages, from one eigendecomposition.

        Args:
            moments: Of rows in classes.
            shrinkages: From 0 to 1, as in `simjax.eval.moments.shrink`. With 0 and a covariance
                without full rank its pseudo-inverse is taken.

        Raises:
            SimjaxError: No rows, or a shrinkage out of range.
        """
        values, vectors = np.linalg.eigh(moments.covariance())
        values = np.maximum(values, 0.0)
        eps = float(np.finfo(np.float64).eps)
        if values[-1] <= np.square(moments.means).sum(axis=1).max() * len(values) * eps:
            values = np.ones_like(values)  # rows equal their class's mean: the nearest mean
        means = moments.means @ vectors
        share = moments.counts / moments.total
        log_share = np.log(share, out=np.full(len(share), -np.inf), where=share > 0)
        found = []
        for shrinkage in shrinkages:
            if not 0.0 <= shrinkage <= 1.0:
                raise SimjaxError(f"shrinkage {shrinkage}: give a number from 0 to 1")
            shrunk = (1.0 - shrinkage) * values + shrinkage * values.mean()
            there = shrunk > shrunk[-1] * len(shrunk) * eps
            weights = means * np.divide(1.0, shrunk, out=np.zeros_like(shrunk), where=there)
            bias = log_share - 0.5 * (weights * means).sum(axis=1)
            found.append(cls(weights @ vectors.T, bias))
        return found

    def logits(self, rows: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N C"]:
        """Logarithms of the classes' posteriors, up to a constant for each row."""
        return np.asarray(rows, np.float64) @ self.weights.T + self.bias

    def predict(self, rows: Float[np.ndarray, "N D"]) -> Int[np.ndarray, "N"]:
        """The most probable class of each row."""
        return self.logits(rows).argmax(axis=1)


def logistic_predictions(
    rows: Float[np.ndarray, "N D"],
    labels: Int[np.ndarray, "N"],
    asked: Float[np.ndarray, "M D"],
    inverse_penalty: float,
) -> Int[np.ndarray, "M"]:
    """Classes by scikit-learn's logistic regression with an L2 penalty.

    Args:
        rows: Unit embeddings to train on. They are scaled by ``sqrt(D)``, so that features are
            of the size of 1 and one range of penalties suits all widths.
        labels: Class of each.
        asked: Unit embeddings to classify.
        inverse_penalty: scikit-learn's `C`.
    """
    from sklearn.linear_model import LogisticRegression

    scale = rows.shape[1] ** 0.5
    probe = LogisticRegression(C=inverse_penalty, max_iter=2000)
    probe.fit(np.asarray(rows, np.float64) * scale, labels)
    return probe.predict(np.asarray(asked, np.float64) * scale)
