"""Two encoders on the same texts: how far apart their embeddings lie."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from simjax.errors import SimjaxError
from simjax.eval.gaussian import Gaussian, bhattacharyya, kl_divergence, wasserstein2
from simjax.eval.moments import ROWS, Moments

NAMES = ("cka", "wasserstein2", "bhattacharyya", "kl", "kl_reverse")
"""What `compare` measures, in its order."""


def linear_cka(joint: Moments, width: int) -> float:
    """Linear centred kernel alignment (Kornblith et al., arXiv 1905.00414).

    ``|X^T Y|^2 / (|X^T X| |Y^T Y|)`` of centred embeddings, in Frobenius norms: from 0 to 1, and
    the same after a rotation or scaling of either set. It is biased upwards where texts are few
    beside dimensions.

    Args:
        joint: Moments of rows in which a text's first embedding is followed by its second.
        width: Width of the first.

    Returns:
        NaN if all embeddings of a set are one.
    """
    first, second = joint.scatter[:width, :width], joint.scatter[width:, width:]
    # Scaled to unit trace, so that no square over- or underflows.
    traces = math.sqrt(np.trace(first)) * math.sqrt(np.trace(second))
    if traces == 0.0:
        return math.nan
    cross = float(((joint.scatter[:width, width:] / traces) ** 2).sum())
    norms = [float(np.linalg.norm(part / np.trace(part))) for part in (first, second)]
    return cross / (norms[0] * norms[1])


def compare(
    first: Float[np.ndarray, "N D"], second: Float[np.ndarray, "N E"], shrinkage: float = 0.0
) -> dict[str, float]:
    """Measure two sets of embeddings of the same texts against each other, in one pass.

    Args:
        first: Embeddings by one encoder.
        second: Embeddings of the same texts, in the same order, by another.
        shrinkage: Of both covariances, from 0 to 1; see `simjax.eval.moments.shrink`.

    Returns:
        `cka`; and where both have one width, of the sets as Gaussians, `wasserstein2`,
        `bhattacharyya`, `kl` (of the first from the second) and `kl_reverse`. All but `cka`
        change when one of the sets is rotated, as another random seed would do.

    Raises:
        SimjaxError: The sets are of different or too small size, or something is not finite.
    """
    if len(first) != len(second):
        raise SimjaxError(f"{len(first)} and {len(second)} embeddings cannot be compared")
    if len(first) < 2:
        raise SimjaxError(f"{len(first)} embeddings are too few to compare: give at least 2")
    width = first.shape[1]
    joint = Moments.of_stream(
        np.concatenate([first[top : top + ROWS], second[top : top + ROWS]], axis=1)
        for top in range(0, len(first), ROWS)
    )
    found = {"cka": linear_cka(joint, width)}
    if second.shape[1] != width:
        return found
    p, q = (
        Gaussian.fit(
            Moments(joint.counts, joint.means[:, part], joint.scatter[part, part]), shrinkage
        )
        for part in (slice(None, width), slice(width, None))
    )
    measures = (wasserstein2(p, q), bhattacharyya(p, q), kl_divergence(p, q), kl_divergence(q, p))
    return found | dict(zip(NAMES[1:], measures, strict=True))


def compare_tasks(
    first: Mapping[str, Float[np.ndarray, "N D"]],
    second: Mapping[str, Float[np.ndarray, "N E"]],
    shrinkage: float = 0.0,
) -> dict[str, float]:
    """`compare` for every evaluation task, under names such as `stsb-dev/cka`.

    Args:
        first: Unit embeddings of each task's distinct texts, by the task's name.
        second: The same by another encoder.
        shrinkage: See `compare`.

    Raises:
        SimjaxError: See `compare`, with the task's name.
    """
    found: dict[str, float] = {}
    for task, rows in first.items():
        if len(rows) < 2:
            continue
        try:
            measured = compare(rows, second[task], shrinkage)
        except SimjaxError as error:
            raise SimjaxError(f"{task}: {error}") from error
        found.update({f"{task}/{name}": value for name, value in measured.items()})
    return found
