"""A student that fits a frozen teacher's embeddings or similarities."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from simjax.mesh import equal_part, global_sum
from simjax.objectives.config import DistillationConfig
from simjax.objectives.objective import Examples, Metrics, Unlearned, global_mean
from simjax.objectives.sides import unit
from simjax.types import NO_TEXT, Params


@dataclass(frozen=True)
class Distillation(Unlearned):
    """What `DistillationConfig.target` names, between unit vectors of student and teacher.

    Attributes:
        config: The target.
    """

    config: DistillationConfig

    def loss(self, params: Params, examples: Examples) -> tuple[Float[Array, ""], Metrics]:
        """Over the texts, triplets or pairs of texts of the global batch."""
        assert examples.frozen is not None  # of the same batch
        student = unit(examples.vectors)
        teacher = jnp.asarray(examples.frozen).astype(jnp.float32)
        there = examples.ids != NO_TEXT
        if self.config.target == "similarity":
            part, loss = similarity_error(
                student.reshape(-1, student.shape[-1]),
                teacher.reshape(-1, teacher.shape[-1]),
                there.reshape(-1),
            )
        elif self.config.target == "margin":
            part, loss = global_mean(*_margin_errors(student, teacher, there))
        elif self.config.target == "kl":
            own = self.config.temperature
            temperature = 1.0 if own is None else own
            part, loss = global_mean(*_divergences(student, teacher, there, temperature))
        else:
            if self.config.target == "cosine":
                values = 1 - (student * teacher).sum(-1)
            else:
                values = ((student - teacher) ** 2).mean(-1)
            part, loss = global_mean(values.reshape(-1), there.astype(jnp.float32).reshape(-1))
        weight = self.config.weight
        return weight * part, {"loss": weight * loss}


def similarity_error(
    student: Float[Array, "n D"], teacher: Float[Array, "n G"], there: Float[Array, "n"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean over all pairs (i, j) of texts of (s_i . s_j - t_i . t_j)^2, and its part of a device.

    The sum over pairs is |S'S|^2 - 2 |S'T|^2 + |T'T|^2, with S and T the matrices of the vectors:
    three products of the width's size, which are summed over devices, instead of the pairs. These
    are of the size of 1, so that errors below 1e-7 drown in float32's rounding.
    """
    weight = there.astype(jnp.float32)[:, None]
    s, t = student * weight, teacher * weight
    rows = jnp.concatenate([s, t], axis=1)
    gram = global_sum(jnp.einsum("nd,ne->de", rows, rows, precision="highest"))
    count = global_sum(weight.sum())
    width = student.shape[-1]
    within, across = (gram[:width, :width], gram[width:, width:]), gram[:width, width:]
    total = (within[0] ** 2).sum() - 2 * (across**2).sum() + (within[1] ** 2).sum()
    mean = total / jnp.maximum(count, 1.0) ** 2
    return equal_part(mean, student), jax.lax.stop_gradient(mean)


def _margin_errors(
    student: Float[Array, "n V D"], teacher: Float[Array, "n V G"], there: Array
) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
    """Squared differences of margins, and which of them count. Hofstaetter 2020, arXiv 2010.02666.

    sentence-transformers' MarginMSELoss on unit vectors, for every hard negative.
    """

    def margins(x: Float[Array, "n V D"]) -> Float[Array, "n H"]:
        cosines = (x[:, :1] * x[:, 1:]).sum(-1)
        return cosines[:, :1] - cosines[:, 1:]

    weights = (there[:, 2:] & there[:, 1:2]).astype(jnp.float32)
    return ((margins(student) - margins(teacher)) ** 2).reshape(-1), weights.reshape(-1)


def _divergences(
    student: Float[Array, "n V D"],
    teacher: Float[Array, "n V G"],
    there: Bool[Array, "n V"],
    temperature: float,
) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """temperature^2 KL(teacher || student) of each anchor's candidates, and which anchors count.

    Candidates are the positive and the hard negatives that are there, with the probabilities
    softmax(cosines with the anchor / temperature). Hinton et al. 2015 (arXiv 1503.02531), section
    2; sentence-transformers' DistillKLDivLoss on unit vectors. An anchor whose positive is alone,
    and has the probability 1 whatever is learned, counts not.
    """
    candidates = there[:, 1:]
    counted = candidates[:, 0] & candidates[:, 1:].any(axis=1)

    def log_softmax(x: Float[Array, "n V D"]) -> Float[Array, "n C"]:
        cosines = (x[:, :1] * x[:, 1:]).sum(-1)
        return jax.nn.log_softmax(jnp.where(candidates, cosines / temperature, -jnp.inf))

    log_s, log_t = log_softmax(student), log_softmax(teacher)
    s, t = jnp.exp(log_s), jnp.exp(log_t)
    ratio = jnp.where(candidates, log_s - log_t, 0.0)
    # KL is the sum of -t ratio. With s - t, whose sum is 0, no term is below 0, so that terms do
    # not cancel each other where student and teacher are close.
    difference = jnp.where(ratio < 1, t * jnp.expm1(jnp.minimum(ratio, 1.0)), s - t)
    values = (difference - t * ratio).sum(axis=-1)
    return temperature**2 * values, counted.astype(jnp.float32)
