"""The losses under study, dense and as practice writes them.

With scores s_ij = x_i . y_j * scale, positive s_ii, and v_i = logsumexp over j != i (s_ij - s_ii):

| form | loss of an anchor | source |
|---|---|---|
| cross_entropy | -log_softmax(s_i)[i] | SimCSE's and sentence-transformers' code |
| lse_minus_positive | logsumexp_j(s_ij) - s_ii | CLIP-style and streamed kernels |
| softplus | softplus(v), the same number | van den Oord et al. 2018, arXiv 1807.03748 |
| dcl | v | Yeh et al. 2021, arXiv 2110.06848 |
| flatnce | exp(v - stop_gradient(v)) | Chen et al. 2021, arXiv 2107.01152 |
| rescaled | softplus(v) / stop_gradient(mean sigmoid(v)) | this study |

The first three are one function. `rescaled` has InfoNCE's weighting of the examples at FlatNCE's
scale: its coefficients sigmoid(v_i) / mean sigmoid(v) have mean 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from simjax.lab.precision.settings import Form


@dataclass(frozen=True)
class Arithmetic:
    """How scores are made and what the loss computes in.

    Attributes:
        name: In tables.
        operands: What embeddings are rounded to.
        scores: Type of scores, loss, and of everything between.
        tf32: float32 operands lose 13 bits of the product's factors, as GPUs do by default.
    """

    name: str
    operands: DTypeLike
    scores: DTypeLike
    tf32: bool = False

    @property
    def precision(self) -> jax.lax.PrecisionLike:
        """Of the product, as `jax.lax` wants it."""
        if self.tf32:
            return jax.lax.DotAlgorithmPreset.TF32_TF32_F32
        return jax.lax.Precision.HIGHEST if self.operands == jnp.float32 else None


FLOAT32 = Arithmetic("float32", jnp.float32, jnp.float32)
TF32 = Arithmetic("tf32", jnp.float32, jnp.float32, tf32=True)
BFLOAT16_OPERANDS = Arithmetic("bfloat16 operands", jnp.bfloat16, jnp.float32)
FLOAT16_OPERANDS = Arithmetic("float16 operands", jnp.float16, jnp.float32)
BFLOAT16 = Arithmetic("bfloat16", jnp.bfloat16, jnp.bfloat16)
FLOAT16 = Arithmetic("float16", jnp.float16, jnp.float16)


def scores(
    x: Float[Array, "B D"], y: Float[Array, "N D"], scale: Float[Array, ""], how: Arithmetic
) -> Float[Array, "B N"]:
    """Scaled products of anchors with keys."""
    products = jax.lax.dot_general(
        x.astype(how.operands),
        y.astype(how.operands),
        (((1,), (1,)), ((), ())),
        precision=how.precision,
        preferred_element_type=how.scores,
    )
    return products * scale.astype(how.scores)


def log_odds(s: Float[Array, "B N"]) -> Float[Array, "B"]:
    """Contrastive log-odds v; key i is the positive of anchor i."""
    gaps = s - jnp.diagonal(s)[:, None]
    positive = jnp.arange(s.shape[0])[:, None] == jnp.arange(s.shape[1])[None, :]
    return jax.nn.logsumexp(jnp.where(positive, -jnp.inf, gaps), axis=1)


def row_losses(form: Form, s: Float[Array, "B N"]) -> Float[Array, "B"]:
    """The loss of each anchor from its scores, in their type."""
    match form:
        case "cross_entropy":
            return -jnp.diagonal(jax.nn.log_softmax(s, axis=1))
        case "lse_minus_positive":
            return jax.nn.logsumexp(s, axis=1) - jnp.diagonal(s)
        case "softplus":
            return jax.nn.softplus(log_odds(s))
        case "dcl":
            return log_odds(s)
        case "flatnce":
            v = log_odds(s)
            return jnp.exp(v - jax.lax.stop_gradient(v))
        case "rescaled":
            v = log_odds(s)
            return jax.nn.softplus(v) / jax.lax.stop_gradient(jax.nn.sigmoid(v).mean())


def dense_loss(
    form: Form,
    x: Float[Array, "B D"],
    y: Float[Array, "N D"],
    scale: Float[Array, ""],
    how: Arithmetic,
) -> Float[Array, ""]:
    """Sum over anchors of the loss.

    A sum and no mean: 1 / B would be one more factor for float16 to underflow on, which loss
    scaling exists to undo.
    """
    return row_losses(form, scores(x, y, scale, how)).sum()
