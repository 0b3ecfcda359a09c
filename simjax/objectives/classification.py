"""Pairs sorted into classes by (u, v, |u - v|): Sentence-BERT's softmax objective, with R-Drop."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from simjax.errors import UsageError
from simjax.mesh import global_sum
from simjax.objectives.config import SoftmaxConfig
from simjax.objectives.objective import Examples, Metrics, global_mean
from simjax.types import Params

_FAR = -1e9
"""The logit of a class that does not compete: no probability in float32, and no NaN."""

_STDDEV = 0.02
"""Of the linear layer's first weights, as BERT's heads have it."""


@dataclass(frozen=True)
class SoftmaxClassification:
    """Mean cross-entropy of softmax(W (u, v, |u - v|) + b), embeddings as they come.

    Reimers and Gurevych 2019 (arXiv 1908.10084), section 3; sentence-transformers' SoftmaxLoss.
    With R-Drop (Wu et al. 2021, arXiv 2106.14448) every text is encoded twice, and to the two
    cross-entropies comes weight / 2 (KL(p, q) + KL(q, p)) of the two predictions.

    Attributes:
        config: The form of it.
        classes: Names of the classes.
    """

    config: SoftmaxConfig
    classes: tuple[str, ...]

    towers = 1

    @property
    def passes(self) -> int:
        """Two with R-Drop."""
        return 1 if self.config.r_drop is None else 2

    def init(self, width: int, key: Key[Array, ""]) -> Params:
        """The linear layer."""
        kernel = _STDDEV * jax.random.normal(key, (3 * width, len(self.classes)), jnp.float32)
        layer = {"kernel": kernel}
        if self.config.use_bias:
            layer["bias"] = jnp.zeros(len(self.classes), jnp.float32)
        return {"classifier": layer}

    def constrain(self, params: Params) -> Params:
        """Nothing is bounded."""
        return params

    def figures(self, params: Params) -> Metrics:
        """None."""
        return {}

    def loss(self, params: Params, examples: Examples) -> tuple[Float[Array, ""], Metrics]:
        """Over examples that have a class."""
        known = examples.labels >= 0
        label = jnp.where(known, examples.labels, 0)
        passes = jnp.split(examples.vectors, self.passes, axis=1)
        rivals = self._rivals()[label]
        layer = params["classifier"]
        predicted = [self._log_probabilities(layer, views, rivals) for views in passes]
        entropies = [-jnp.take_along_axis(p, label[:, None], axis=1)[:, 0] for p in predicted]
        values = sum(entropies[1:], entropies[0])
        drop = self.config.r_drop
        if drop is not None:
            if drop.form == "repository":
                values = values / 2
            p, q = predicted
            # KL(p, q) + KL(q, p) = sum (p - q) (log p - log q)
            gaps = jnp.where(rivals, (jnp.exp(p) - jnp.exp(q)) * (p - q), 0.0)
            values = values + drop.weight / 2 * gaps.sum(axis=1)
        weights = known.astype(jnp.float32)
        part, loss = global_mean(values, weights)
        right = (predicted[0].argmax(axis=1) == label).astype(jnp.float32)
        sums = global_sum(((right * weights).sum(), weights.sum()))
        return part, {"loss": loss, "accuracy": sums[0] / jnp.maximum(sums[1], 1.0)}

    def likeliest(
        self, params: Params, views: Float[Array, "n 2 D"], labels: Int[Array, "n"]
    ) -> Int[Array, "n"]:
        """The class with the highest probability among those that compete with the label's."""
        rivals = self._rivals()[labels]
        return self._log_probabilities(params["classifier"], views, rivals).argmax(axis=1)

    def _rivals(self) -> Bool[Array, "C C"]:
        """Which classes compete with which."""
        spaces = self.config.label_spaces
        if not spaces:
            return jnp.ones((len(self.classes),) * 2, bool)
        number = jnp.asarray([space_of(name, spaces) for name in self.classes])
        return number[:, None] == number[None, :]

    def _log_probabilities(
        self, layer: Params, views: Float[Array, "n 2 D"], rivals: Bool[Array, "n C"]
    ) -> Float[Array, "n C"]:
        u, v = (views[:, view].astype(jnp.float32) for view in (0, 1))
        features = jnp.concatenate([u, v, jnp.abs(u - v)], axis=1)
        logits = jnp.matmul(features, layer["kernel"], precision="highest")
        logits = jnp.where(rivals, logits + layer.get("bias", 0.0), _FAR)
        return jax.nn.log_softmax(logits, axis=1)


def space_of(name: str, spaces: tuple[tuple[str, ...], ...]) -> int:
    """The label space that a class is in.

    Raises:
        UsageError: It is in none, or in several.
    """
    found = [number for number, space in enumerate(spaces) if name in space]
    if len(found) != 1:
        raise UsageError(
            f"the class {name!r} of the data is in {len(found) or 'none'} of the spaces of "
            "objective.label_spaces: put it into one"
        )
    return found[0]
