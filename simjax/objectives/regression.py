"""Pairs whose cosine is fitted to a score: Sentence-BERT's regression objective."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from simjax.objectives.config import CosineConfig
from simjax.objectives.objective import Examples, Metrics, Unlearned, global_mean
from simjax.objectives.sides import unit
from simjax.types import Params


@dataclass(frozen=True)
class CosineRegression(Unlearned):
    """Mean of (cos(u, v) - y)^2, y the score as a share of its range.

    Reimers and Gurevych 2019 (arXiv 1908.10084), section 3; sentence-transformers'
    CosineSimilarityLoss.

    Attributes:
        config: The range.
    """

    config: CosineConfig

    def loss(self, params: Params, examples: Examples) -> tuple[Float[Array, ""], Metrics]:
        """Over pairs that have a score."""
        assert examples.scores is not None  # checked before the first step
        low, high = self.config.score_range
        known = ~jnp.isnan(examples.scores)
        wanted = jnp.where(known, (examples.scores - low) / (high - low), 0.0)
        u, v = (unit(examples.vectors[:, view]) for view in (0, 1))
        part, loss = global_mean(((u * v).sum(-1) - wanted) ** 2, known.astype(jnp.float32))
        return part, {"loss": loss}
