"""What an objective is: a function of a global batch's embeddings, with what it learns itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from simjax import types
from simjax.mesh import global_sum
from simjax.types import Batch, Params

Metrics: TypeAlias = dict[str, Float[Array, ""]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Examples:
    """This device's examples of a global batch.

    Attributes:
        vectors: Embeddings, of any length, zero for absent texts; view by view, and all views once
            more for each further pass (`Objective.passes`) or tower (`Objective.towers`).
        ids: Dense text ids, `NO_TEXT` where an example lacks a view.
        labels: Classes, -1 if unknown.
        scores: Scores, NaN where there is none; None where a data set has no scores.
        number: Number of each example in the global batch.
        frozen: Unit vectors of the texts by a frozen model, a guide or a teacher.
    """

    vectors: Float[Array, "n W D"]
    ids: Int[Array, "n V"]
    labels: Int[Array, "n"]
    scores: Float[Array, "n"] | None
    number: Int[Array, "n"]
    frozen: Float[Array, "n V G"] | None

    @classmethod
    def of(cls, embeddings: Float[Array, "K E W D"], batch: Batch) -> Examples:
        """The examples of a device's blocks."""
        blocks, size, views = batch.ids.shape

        def flat(x: types.Array | None, *rest: int) -> Array | None:
            return None if x is None else jnp.reshape(x, (blocks * size, *rest))

        place = jnp.asarray(batch.place)
        number = place[:, None] * size + jnp.arange(size, dtype=place.dtype)
        return cls(
            vectors=embeddings.reshape(blocks * size, *embeddings.shape[2:]),
            ids=jnp.reshape(batch.ids, (blocks * size, views)),
            labels=jnp.ravel(batch.labels),
            scores=flat(batch.scores),
            number=number.reshape(-1),
            frozen=flat(batch.guide, views, -1),
        )


class Objective(Protocol):
    """A loss of the embeddings of a global batch."""

    @property
    def passes(self) -> int:
        """Times that every text is encoded, each with a dropout of its own."""

    @property
    def towers(self) -> int:
        """1, or 2: encoders that start alike and each encode every text, the exported one last."""

    def init(self, width: int, key: Key[Array, ""]) -> Params:
        """What it learns itself, for embeddings of a width: a nested dict, maybe empty."""

    def constrain(self, params: Params) -> Params:
        """What it learns, after an update, within its bounds."""

    def figures(self, params: Params) -> Metrics:
        """What of it is logged."""

    def loss(self, params: Params, examples: Examples) -> tuple[Float[Array, ""], Metrics]:
        """This device's part of the loss, and metrics of the global batch, the whole loss too.

        The sum of the parts over devices is the loss; each is differentiated as it is.
        """


def global_mean(
    values: Float[Array, "n"], weights: Float[Array, "n"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """This device's part of the weighted mean over all devices' examples, and that mean.

    The part is to be differentiated, the mean is not. With no weight at all both are 0.
    """
    total = jnp.maximum(global_sum(weights.sum()), 1e-12)
    part = jnp.where(weights > 0, values * weights, 0.0).sum() / total
    return part, global_sum(jax.lax.stop_gradient(part))


class Unlearned:
    """What objectives that learn nothing themselves have in common."""

    passes = 1
    towers = 1

    def init(self, width: int, key: Key[Array, ""]) -> Params:
        """Nothing."""
        return {}

    def constrain(self, params: Params) -> Params:
        """Nothing is bounded."""
        return params

    def figures(self, params: Params) -> Metrics:
        """None."""
        return {}
