"""Embeddings whose first numbers are embeddings, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Array, Float, Key

from simjax.objectives.config import MatryoshkaConfig
from simjax.objectives.objective import Examples, Metrics, Objective
from simjax.objectives.sides import unit
from simjax.types import Params


@dataclass(frozen=True)
class Matryoshka:
    """Sum over widths d of weight_d times an objective of the first d numbers of each vector.

    Kusupati et al. 2022 (arXiv 2205.13147), equation 1; sentence-transformers' MatryoshkaLoss. The
    texts are encoded once. As there, the vectors of every width are made unit vectors, which
    matters to objectives of distances or dot products and not to those of cosines. Metrics are
    those of the largest width, but for `loss`.

    Attributes:
        objective: What is taken of each width, with one set of learned parameters.
        config: The widths.
    """

    objective: Objective
    config: MatryoshkaConfig

    @property
    def passes(self) -> int:
        """The objective's."""
        return self.objective.passes

    @property
    def towers(self) -> int:
        """The objective's."""
        return self.objective.towers

    def init(self, width: int, key: Key[Array, ""]) -> Params:
        """The objective's, which no width may decide."""
        return self.objective.init(width, key)

    def constrain(self, params: Params) -> Params:
        """As the objective has it."""
        return self.objective.constrain(params)

    def figures(self, params: Params) -> Metrics:
        """The objective's."""
        return self.objective.figures(params)

    def loss(self, params: Params, examples: Examples) -> tuple[Float[Array, ""], Metrics]:
        """Over the widths, largest first."""
        parts, losses = [], []
        metrics: Metrics = {}
        for dimension, weight in _largest_first(self.config):
            cut = replace(examples, vectors=unit(examples.vectors[..., :dimension]))
            part, found = self.objective.loss(params, cut)
            metrics = metrics or dict(found)
            metrics[f"loss_{dimension}"] = found["loss"]
            parts.append(weight * part)
            losses.append(weight * found["loss"])
        return sum(parts[1:], parts[0]), metrics | {"loss": sum(losses[1:], losses[0])}


def _largest_first(config: MatryoshkaConfig) -> Sequence[tuple[int, float]]:
    weights = config.weights or (1.0,) * len(config.dimensions)
    return sorted(zip(config.dimensions, weights, strict=True), reverse=True)
