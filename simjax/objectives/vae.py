"""The negative evidence lower bound of texts that are written again from their own latents.

For each text -log p(text | latents) of its tokens, plus a weight times KL(latents || prior), summed
over the texts and divided by the number of tokens (Kingma & Welling 2013, arXiv 1312.6114; as
UniVAE has it, kexue.fm 8475).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from simjax.objectives.config import VaeConfig
from simjax.objectives.separable import GatherLayer, Sums, token_sums
from simjax.objectives.seq2seq import predicted
from simjax.types import Batch, Params


class Reconstruct(Protocol):
    """Draws latents of texts, and predicts the tokens at some places of a batch's blocks."""

    def __call__(
        self,
        params: Params,
        batch: Batch,
        where: Int[Array, "K M"],
        targets: Int[Array, "K M"],
        latent_key: Key[Array, ""],
        dropout_key: Key[Array, ""] | None,
        gather_layer: GatherLayer,
    ) -> tuple[Float[Array, "K M"], Bool[Array, "K M"], Float[Array, "S K T"]]:
        """-log p of each target, and whether it is the likeliest token; divergences of latents."""


@dataclass(frozen=True)
class Vae:
    """The loss of a token: what it takes to predict it, and its share of the divergence.

    Attributes:
        config: The divergence's weight.
        reconstruct: The encoder with its latents and its head.
        dropout: Whether the encoder drops out in training.
        constant: Whether the divergence is one, which is told and not learned.
    """

    config: VaeConfig
    reconstruct: Reconstruct
    dropout: bool
    constant: bool

    name = "vae"
    weight = 1.0

    def sums(
        self,
        params: Params,
        batch: Batch,
        key: Key[Array, ""],
        gather_layer: GatherLayer,
        step: Int[Array, ""] | int = 0,
    ) -> Sums:
        """Over some blocks; what becomes of a block does not depend on the others."""
        latent_key, dropout_key = jax.random.split(key)
        block = jax.tree.map(jnp.asarray, batch.block)
        where, targets = jax.vmap(predicted)(block)
        losses, right, divergence = self.reconstruct(
            params,
            batch,
            where,
            targets,
            latent_key,
            dropout_key if self.dropout else None,
            gather_layer,
        )
        predicted_tokens, kl = token_sums(losses, right, targets), divergence.sum()
        share = 0.0 if self.constant else kl_weight(self.config, step)
        told = {"reconstruction": predicted_tokens.loss, "kl": kl}
        return replace(
            predicted_tokens,
            loss=predicted_tokens.loss + share * kl,
            metrics=predicted_tokens.metrics | told,
        )


def kl_weight(config: VaeConfig, step: Int[Array, ""] | int) -> Float[Array, ""]:
    """The divergence's weight in the update after `step` others."""
    done = (jnp.asarray(step, jnp.float32) + 1.0) / max(config.kl_warmup, 1)
    return config.kl_weight * jnp.minimum(done, 1.0)
