"""BERT-whitening (Su et al. 2021, arXiv 2103.15316): an affine map to uncorrelated dimensions.

It is a dense layer without activation, and is kept as one, so that every reader of a model's folder
applies it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simjax.errors import SimjaxError, UsageError
from simjax.eval.moments import Moments
from simjax.models.heads import HeadWeights
from simjax.postprocess.principal import principal_axes


@dataclass(frozen=True)
class Whitening:
    """A fitted whitening.

    Attributes:
        layer: The affine map, in float32.
        sentences: How many it was fitted on.
        kept: Share of the variance that lies in the dimensions that are kept, from 0 to 1.
    """

    layer: HeadWeights
    sentences: int
    kept: float


def whitening(moments: Moments, dimension: int | None = None) -> Whitening:
    """The map to vectors of mean 0 and covariance 1.

    ``y = (x - mean) W`` with ``W = U L^(-1/2)[:, :k]``, where ``U L U^T`` is the covariance and the
    largest variances are in front.

    Args:
        moments: Of the vectors that it is fitted on.
        dimension: Principal axes that are kept (k); None keeps all along which the vectors vary.
            The output of a layer normalisation, as most encoders end with, always has one along
            which it does not, and so have means of it.

    Raises:
        UsageError: `dimension` is below 1 or above the vectors' width.
        SimjaxError: There are not more vectors than dimensions (to keep, or of the vectors where
            nothing is said), or they vary in fewer directions: along the others only rounding would
            be left to be magnified.
    """
    mean, count = moments.means[0], round(moments.total)
    width = len(mean)
    kept = width if dimension is None else dimension
    if not 1 <= kept <= width:
        raise UsageError(f"dimension {kept}: embeddings have {width}; choose from 1 to that")
    if count <= kept:
        fewer = f", or a dimension of at most {count - 1}" if count > 1 else ""
        raise SimjaxError(
            f"whitening to {kept} dimensions needs at least {kept + 1:,} different sentences and "
            f"there {'is' if count == 1 else 'are'} {count:,}: give more{fewer}"
        )
    principal = principal_axes(moments)
    variances, rank = principal.variances, principal.rank
    if dimension is None and rank:
        kept = rank
    if rank < kept:
        fewer = f", or a dimension of at most {rank}" if rank else ""
        raise SimjaxError(
            f"the embeddings of the {count:,} sentences vary in {rank} of {width} dimensions, too "
            f"few for whitening to {kept}: give more different sentences{fewer}"
        )
    weight = (principal.axes[:, :kept] / np.sqrt(variances[:kept])).T
    layer = HeadWeights(
        np.ascontiguousarray(weight, np.float32),
        (-weight @ mean).astype(np.float32),
        "identity",
    )
    return Whitening(layer, count, float(variances[:kept].sum() / variances.sum()))
