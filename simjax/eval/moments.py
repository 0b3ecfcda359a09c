"""Means and covariances of any number of embeddings, in one pass and in float64."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from simjax.errors import SimjaxError

ROWS = 8192
"""Embeddings that are held in float64 at a time."""


@dataclass(frozen=True)
class Moments:
    """How many rows there are, their means, and how they scatter around them, class by class.

    A set without classes is one class. Parts of a set are measured apart and merged (Chan, Golub
    & LeVeque 1983), so that neither the number of rows nor their distance from zero matters.

    Attributes:
        counts: Rows of each class.
        means: Mean of each class; zeros for a class without rows.
        scatter: Sum over all rows of ``(x - m)(x - m)^T``, m being the mean of the row's class.
    """

    counts: Float[np.ndarray, "C"]
    means: Float[np.ndarray, "C D"]
    scatter: Float[np.ndarray, "D D"]

    @classmethod
    def of(
        cls,
        rows: Float[np.ndarray, "N D"],
        labels: Int[np.ndarray, "N"] | None = None,
        classes: int = 1,
    ) -> Moments:
        """Measure rows that are in memory, or mapped from a file.

        Args:
            rows: The embeddings.
            labels: Class of each, from 0; None puts all into class 0.
            classes: Number of classes.

        Raises:
            SimjaxError: An embedding is not finite.
        """
        width = rows.shape[1]
        found = cls(np.zeros(classes), np.zeros((classes, width)), np.zeros((width, width)))
        for top in range(0, len(rows), ROWS):
            own = None if labels is None else labels[top : top + ROWS]
            found = found.merge(cls._of_chunk(rows[top : top + ROWS], own, classes))
        return found

    @classmethod
    def of_stream(cls, chunks: Iterable[Float[np.ndarray, "n D"]]) -> Moments:
        """Measure rows that come a chunk at a time, as `SentenceEncoder.encode_stream` gives them.

        Raises:
            SimjaxError: There are none, an embedding is not finite, or widths differ.
        """
        parts: Iterator[Moments] = (cls.of(chunk) for chunk in chunks)
        found = next(parts, None)
        if found is None:
            raise SimjaxError("there are no embeddings to measure")
        for part in parts:
            found = found.merge(part)
        return found

    @classmethod
    def _of_chunk(
        cls, rows: Float[np.ndarray, "n D"], labels: Int[np.ndarray, "n"] | None, classes: int
    ) -> Moments:
        wide = np.asarray(rows, np.float64)
        broken = int(np.count_nonzero(~np.isfinite(wide).all(axis=1)))
        if broken:
            raise SimjaxError(f"{broken} of {len(wide)} embeddings are not finite")
        labels = np.zeros(len(wide), np.int64) if labels is None else labels
        counts = np.bincount(labels, minlength=classes).astype(np.float64)
        members = labels == np.arange(classes)[:, None]
        means = members.astype(np.float64) @ wide / np.maximum(counts, 1.0)[:, None]
        centred = wide - means[labels]
        return cls(counts, means, centred.T @ centred)

    @property
    def total(self) -> float:
        """Rows of all classes."""
        return float(self.counts.sum())

    def merge(self, other: Moments) -> Moments:
        """The moments of two sets of rows together.

        Raises:
            SimjaxError: The sets have different widths or numbers of classes.
        """
        if self.means.shape != other.means.shape:
            raise SimjaxError(
                f"moments of shapes {self.means.shape} and {other.means.shape} cannot be merged"
            )
        counts = self.counts + other.counts
        share = other.counts / np.maximum(counts, 1.0)
        apart = other.means - self.means
        between = (apart * (self.counts * share)[:, None]).T @ apart
        return Moments(
            counts,
            self.means + apart * share[:, None],
            self.scatter + other.scatter + between,
        )

    def covariance(self, lost: int = 0) -> Float[np.ndarray, "D D"]:
        """Scatter over the number of rows less `lost`: 0 for maximum likelihood, 1 as NumPy's cov.

        Raises:
            SimjaxError: There are too few rows.
        """
        if self.total <= lost:
            raise SimjaxError(f"{self.total:.0f} embeddings have no covariance")
        return self.scatter / (self.total - lost)


def shrink(covariance: Float[np.ndarray, "D D"], shrinkage: float) -> Float[np.ndarray, "D D"]:
    """``(1 - s) S + s (tr S / D) I``, Ledoit & Wolf's (2004) form, with `s` of the caller's choice.

    Any `s` above 0 makes a covariance that is not zero a full-rank one, of the same trace.

    Raises:
        SimjaxError: `s` is not from 0 to 1.
    """
    if not 0.0 <= shrinkage <= 1.0:
        raise SimjaxError(f"shrinkage {shrinkage}: give a number from 0 to 1")
    width = len(covariance)
    return (1.0 - shrinkage) * covariance + np.eye(width) * (
        shrinkage * np.trace(covariance) / width
    )
