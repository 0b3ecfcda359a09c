"""Distances between two sets of embeddings, each taken for a Gaussian.

The Kullback-Leibler divergence and the Bhattacharyya distance compare densities. Where covariances
lack full rank there are densities only on the affine subspace that a set fills, and so:

* both sets fill the same subspace: the distance is that within it;
* they fill different ones: nothing is shared, and the distance is infinite, whatever the rank.

Few texts in many dimensions always fill different subspaces. A covariance can be shrunk towards a
multiple of the identity (`shrink`) to have finite figures for them, which depend on how much. The
Wasserstein distance needs no densities and is always finite.

A direction in which a set deviates by less than `NOISE` of its root mean square length counts as
one in which it does not: that much is what rounding makes of float32 embeddings. All formulas are
stated in the frame in which one covariance is the identity and the other is diagonal, where every
term is of one sign, so that nothing cancels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from simjax.errors import SimjaxError
from simjax.eval.moments import Moments, shrink

NOISE = 1e-6
"""Least deviation that counts, relative to the root mean square length of the embeddings."""


@dataclass(frozen=True)
class Gaussian:
    """A mean and a covariance, in float64.

    Attributes:
        mean: The mean.
        covariance: Symmetric and positive semi-definite, of any rank.
    """

    mean: Float[np.ndarray, "D"]
    covariance: Float[np.ndarray, "D D"]

    @classmethod
    def fit(cls, moments: Moments, shrinkage: float = 0.0) -> Gaussian:
        """The Gaussian of a set without classes, with the unbiased covariance that NumPy takes.

        Args:
            moments: Of the set.
            shrinkage: From 0 to 1; see `shrink`.

        Raises:
            SimjaxError: Fewer than two rows, several classes, or a shrinkage out of range.
        """
        if len(moments.means) != 1:
            raise SimjaxError("a Gaussian is fitted to a set without classes")
        return cls(moments.means[0], shrink(moments.covariance(lost=1), shrinkage))

    @cached_property
    def spectrum(self) -> tuple[Float[np.ndarray, "D"], Float[np.ndarray, "D D"]]:
        """Eigenvalues from the smallest, none below zero, and eigenvectors as columns."""
        values, vectors = np.linalg.eigh(self.covariance)
        return np.maximum(values, 0.0), vectors

    @property
    def threshold(self) -> float:
        """Variances that are not above this count as zero."""
        return NOISE**2 * float(np.trace(self.covariance) + (self.mean**2).sum())

    @cached_property
    def rank(self) -> int:
        """Dimensions of the affine subspace that the Gaussian fills."""
        return int(np.count_nonzero(self.spectrum[0] > self.threshold))

    def support(self) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "D k"]]:
        """The eigenvalues that are not zero, and their eigenvectors."""
        values, vectors = self.spectrum
        return values[len(values) - self.rank :], vectors[:, len(values) - self.rank :]


def kl_divergence(p: Gaussian, q: Gaussian) -> float:
    """``KL(p || q)`` in nats: what is lost where `q` is taken for `p`. Not symmetric.

    ``1/2 (tr(Sq^-1 Sp) + d^T Sq^-1 d - k + ln det Sq - ln det Sp)``, d the difference of the means
    and k the dimension of the subspace that both fill; infinite if they fill different ones.

    Raises:
        SimjaxError: The widths differ.
    """
    shared = _shared_frame(p, q)
    if shared is None:
        return math.inf
    deviations, apart = shared
    spread = (deviations - 1.0) * (deviations + 1.0) - 2.0 * np.log(deviations)
    return 0.5 * float(np.maximum(spread, 0.0).sum() + (apart**2).sum())


def bhattacharyya(p: Gaussian, q: Gaussian) -> float:
    """The Bhattacharyya distance, ``-ln`` of the integral of ``sqrt(p q)``, in nats.

    ``1/8 d^T S^-1 d + 1/2 (ln det S - 1/2 ln det Sp - 1/2 ln det Sq)``, S the mean of the two
    covariances (Bhattacharyya 1943; Kailath 1967); infinite if they fill different subspaces.

    Raises:
        SimjaxError: The widths differ.
    """
    shared = _shared_frame(p, q)
    if shared is None:
        return math.inf
    deviations, apart = shared
    # (1 + s^2) / 2s = cosh(ln s), whose logarithm is exact near s = 1 in this form.
    spread = np.log1p(2.0 * np.sinh(0.5 * np.log(deviations)) ** 2)
    return float(0.5 * spread.sum() + 0.25 * (apart**2 / (1.0 + deviations**2)).sum())


def wasserstein2(p: Gaussian, q: Gaussian) -> float:
    """The 2-Wasserstein (Frechet) distance, in the units of the embeddings.

    ``W^2 = |d|^2 + tr(Sp + Sq - 2 (Sp^1/2 Sq Sp^1/2)^1/2)`` (Dowson & Landau 1982); the Frechet
    inception distance is such a ``W^2``. Taken as the least ``|Fp - Fq R|`` over rotations R of
    the factors ``S = F F^T`` (Bhatia, Jain & Lim 2019), which never subtracts traces. Defined and
    finite for covariances of any rank.

    Raises:
        SimjaxError: The widths differ.
    """
    _check_widths(p, q)
    factors = [vectors * np.sqrt(values) for values, vectors in (p.spectrum, q.spectrum)]
    left, _, right = np.linalg.svd(factors[1].T @ factors[0])
    rest = factors[0] - factors[1] @ (left @ right)
    return math.sqrt(float(((p.mean - q.mean) ** 2).sum() + (rest**2).sum()))


def _check_widths(p: Gaussian, q: Gaussian) -> None:
    if p.mean.shape != q.mean.shape:
        raise SimjaxError(
            f"embeddings of widths {len(p.mean)} and {len(q.mean)} have no distance as Gaussians"
        )


def _shared_frame(
    p: Gaussian, q: Gaussian
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]] | None:
    """`p` in the frame where `q` is standard normal and `p`'s covariance diagonal.

    Returns:
        Standard deviations and means of `p` there; None if the two fill different subspaces.
    """
    _check_widths(p, q)
    if p.rank != q.rank:
        return None
    (p_values, p_vectors), (q_values, q_vectors) = p.support(), q.support()
    factor, apart = p_vectors * np.sqrt(p_values), p.mean - q.mean
    # What may lie outside and still counts as nothing: in every dimension what counts as zero.
    nothing = len(apart) * max(p.threshold, q.threshold)
    outside = factor - q_vectors @ (q_vectors.T @ factor)
    apart_outside = apart - q_vectors @ (q_vectors.T @ apart)
    if (outside**2).sum() > nothing or (apart_outside**2).sum() > nothing:
        return None
    whiten = (q_vectors / np.sqrt(q_values)).T
    frame, deviations, _ = np.linalg.svd(whiten @ factor)
    if not (deviations > 0.0).all():
        return None
    return deviations, frame.T @ (whiten @ apart)
