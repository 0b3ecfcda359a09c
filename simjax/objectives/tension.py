"""Contrastive Tension: two encoders tell whether they have the same sentence."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from simjax.mesh import global_sum
from simjax.objectives.config import ContrastiveConfig, InBatchTensionConfig, TensionConfig
from simjax.objectives.contrastive import Contrastive
from simjax.objectives.objective import Examples, Metrics, Unlearned, global_mean
from simjax.objectives.uniformity import Views
from simjax.ops import Exchange
from simjax.types import NO_TEXT, Params


@dataclass(frozen=True)
class Tension(Unlearned):
    """Binary cross-entropy of the dot product of two encoders' vectors: one sentence, or two?

    Every sentence i of a batch is paired with itself and with the `negatives` sentences that
    follow it in its block, around the end: as random a choice as any, since batches are drawn at
    random, at the cost of two passes for each sentence instead of two for each pair. Carlsson et
    al. 2021 (OpenReview Ov_sMNau-PF), equation 1.

    Attributes:
        config: How many negatives, and how pairs are added up.
        block: Sentences of a block.
    """

    config: TensionConfig
    block: int

    towers = 2

    def loss(self, params: Params, examples: Examples) -> tuple[Float[Array, ""], Metrics]:
        """Over pairs of two texts that are there; pairs of equal texts that are two count not."""
        first, second = (
            x.astype(jnp.float32).reshape(-1, self.block, x.shape[-1])
            for x in (examples.vectors[:, 0], examples.vectors[:, 1])
        )
        ids = examples.ids[:, 0].reshape(-1, self.block)
        values, weights, right = [], [], []
        for step in range(self.config.negatives + 1):
            other, other_ids = jnp.roll(second, -step, axis=1), jnp.roll(ids, -step, axis=1)
            logits = (first * other).sum(-1)
            there = (ids != NO_TEXT) & (other_ids != NO_TEXT)
            if step:
                there &= ids != other_ids
            values.append(jax.nn.softplus(logits if step else -logits))
            weights.append(there.astype(jnp.float32))
            right.append((logits < 0) if step else (logits >= 0))
        value, weight = (jnp.stack(x).reshape(-1) for x in (values, weights))
        _, accuracy = global_mean(jnp.stack(right).reshape(-1).astype(jnp.float32), weight)
        if self.config.reduction == "mean":
            part, loss = global_mean(value, weight)
        else:
            part = (value * weight).sum()
            loss = global_sum(jax.lax.stop_gradient(part))
        return part, {"loss": loss, "accuracy": accuracy}


@dataclass(frozen=True)
class InBatchTension:
    """Symmetric InfoNCE between the two encoders' vectors of the batch's sentences.

    sentence-transformers' ContrastiveTensionLossInBatchNegatives; with the text rule, equal
    sentences are no negatives.

    Attributes:
        contrast: The objective over the views (first encoder's, second encoder's).
    """

    contrast: Contrastive

    passes = 1
    towers = 2

    @classmethod
    def of(
        cls,
        config: InBatchTensionConfig,
        group: int,
        dtype: DTypeLike,
        exchange: Exchange | None,
    ) -> InBatchTension:
        """From its configuration; the uniformity of a vector set is sampled in groups."""
        symmetric = ContrastiveConfig(
            directions="symmetric",
            temperature=config.temperature,
            learnable_temperature=config.learnable_temperature,
            max_scale=config.max_scale,
            false_negatives=config.false_negatives,
        )
        # The encoders are not tied: what lies between them is the uniformity of neither.
        views = Views(positives=1, one_distribution=False, group=group)
        return cls(Contrastive(symmetric, views, dtype, exchange))

    def init(self, width: int, key: Key[Array, ""]) -> Params:
        """The scale."""
        return self.contrast.init(width, key)

    def constrain(self, params: Params) -> Params:
        """The scale, within its bound."""
        return self.contrast.constrain(params)

    def figures(self, params: Params) -> Metrics:
        """The scale."""
        return self.contrast.figures(params)

    def loss(self, params: Params, examples: Examples) -> tuple[Float[Array, ""], Metrics]:
        """Over the global batch."""
        ids = jnp.concatenate([examples.ids, examples.ids], axis=1)
        twice = Examples(examples.vectors, ids, examples.labels, None, examples.number, None)
        return self.contrast.loss(params, twice)
