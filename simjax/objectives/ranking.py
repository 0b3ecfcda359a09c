"""Pairs whose similarities are put in the order of their scores: CoSENT and AnglE."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simjax.mesh import global_sum
from simjax.objectives.config import AngleConfig, CosentConfig
from simjax.objectives.objective import Examples, Metrics, Unlearned
from simjax.objectives.sides import unit
from simjax.ops import ranking_loss
from simjax.types import Params


@dataclass(frozen=True)
class Ranking(Unlearned):
    """log(1 + sum over pairs of examples with gold_i > gold_j of exp((s_j - s_i) / temperature)).

    The sum over the global batch's examples, as sentence-transformers' CoSENTLoss and AnglELoss
    have it. s is the cosine, or AnglE's `angle`.

    Attributes:
        config: Which of them.
    """

    config: CosentConfig | AngleConfig

    def loss(self, params: Params, examples: Examples) -> tuple[Float[Array, ""], Metrics]:
        """Over all pairs of examples; all of them have scores."""
        assert examples.scores is not None  # checked before the first step
        u, v = (unit(examples.vectors[:, view]) for view in (0, 1))
        similarity = angle(u, v) if self.config.name == "angle" else (u * v).sum(-1)
        part = ranking_loss(similarity / self.config.temperature, examples.scores)
        return part, {"loss": global_sum(jax.lax.stop_gradient(part))}


def angle(u: Float[Array, "n D"], v: Float[Array, "n D"]) -> Float[Array, "n"]:
    """AnglE's similarity of unit vectors read as complex ones, the first half their real parts.

    The absolute sum of the real and imaginary parts of the quotients u / v, times |v| / |u|: with
    u = a + bi and v = c + di that is |a.c + b.d + b.c - a.d|. Li and Li 2023 (arXiv 2309.12871),
    equation 6, as sentence-transformers' pairwise_angle_sim has it.

    Raises:
        ValueError: The width is odd.
    """
    if u.shape[-1] % 2:
        raise ValueError(f"vectors of the odd width {u.shape[-1]} have no complex halves")
    (a, b), (c, d) = (jnp.split(x, 2, axis=-1) for x in (u, v))
    return jnp.abs((a * c + b * d + b * c - a * d).sum(axis=-1))
