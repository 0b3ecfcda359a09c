"""Mean and covariance of vectors that come in parts, exactly and in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from simjax.errors import SimjaxError

NOISE = 1e-4
"""Standard deviation, relative to the root mean square length of the vectors, below which a
direction counts as none: what rounding makes of vectors in float32 is about a hundredth of it."""


@dataclass(frozen=True)
class Moments:
    """Number, mean and scatter of vectors, in float64.

    Attributes:
        count: How many there are.
        mean: Their mean.
        scatter: The sum of the outer products of what is left without the mean.
    """

    count: int
    mean: Float64[np.ndarray, "D"]
    scatter: Float64[np.ndarray, "D D"]

    @classmethod
    def of(cls, rows: Float[np.ndarray, "n D"]) -> Moments:
        """Of vectors in memory.

        Raises:
            SimjaxError: One is not finite.
        """
        wide = np.asarray(rows, np.float64)
        broken = int(np.count_nonzero(~np.isfinite(wide).all(axis=1)))
        if broken:
            raise SimjaxError(f"{broken} of {len(wide)} embeddings are not finite")
        mean = wide.mean(axis=0) if len(wide) else np.zeros(wide.shape[1])
        centred = wide - mean
        return cls(len(wide), mean, centred.T @ centred)

    def merge(self, other: Moments) -> Moments:
        """Of the vectors of both.

        With d the difference of the means, the scatters are added up with
        ``d d^T n_a n_b / (n_a + n_b)``, which subtracts no large numbers (Chan, Golub & LeVeque
        1983, The American Statistician 37).
        """
        count = self.count + other.count
        if not count:
            return self
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        between = np.outer(apart, apart) * (self.count * (other.count / count))
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Float64[np.ndarray, "D D"]:
        """The mean of the outer products, over all vectors."""
        return self.scatter / max(1, self.count)

    def spectrum(self) -> tuple[Float64[np.ndarray, "D"], Float64[np.ndarray, "D D"]]:
        """Variances along the principal axes, largest first, and those axes as columns."""
        variances, axes = np.linalg.eigh(self.covariance)
        return np.maximum(variances[::-1], 0.0), axes[:, ::-1]

    def rank(self, variances: Float64[np.ndarray, "D"]) -> int:
        """How many of the principal axes are more than `NOISE`."""
        mean_square = float(variances.sum() + self.mean @ self.mean)
        return int(np.count_nonzero(variances > NOISE**2 * mean_square))


def moments(parts: Iterable[Float[np.ndarray, "_ D"]], width: int) -> Moments:
    """Mean and covariance of any number of vectors, a part in memory at a time.

    Raises:
        SimjaxError: A vector is not finite.
    """
    found = Moments(0, np.zeros(width), np.zeros((width, width)))
    for rows in parts:
        found = found.merge(Moments.of(rows))
    return found
