"""Principal axes of a set of vectors, and how many of them are more than rounding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from simjax.eval.moments import Moments

NOISE = 1e-4
"""Standard deviation, relative to the root mean square length of the vectors, below which a
direction counts as none: what rounding makes of vectors in float32 is about a hundredth of it."""


@dataclass(frozen=True)
class PrincipalAxes:
    """The eigenvectors of a covariance.

    Attributes:
        variances: Along each axis, largest first.
        axes: The axes, as columns.
        rank: How many of them the vectors vary along, by more than `NOISE`.
    """

    variances: Float64[np.ndarray, "D"]
    axes: Float64[np.ndarray, "D D"]
    rank: int


def principal_axes(moments: Moments) -> PrincipalAxes:
    """Of vectors without classes, by the mean of the outer products of what is left of the mean.

    Raises:
        SimjaxError: There are no vectors.
    """
    found, axes = np.linalg.eigh(moments.covariance())
    variances = np.maximum(found[::-1], 0.0)
    mean = moments.means[0]
    mean_square = float(variances.sum() + mean @ mean)
    rank = int(np.count_nonzero(variances > NOISE**2 * mean_square))
    return PrincipalAxes(variances, axes[:, ::-1], rank)
