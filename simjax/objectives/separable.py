"""Losses that are sums over examples: every part of a batch adds its own, divided at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from simjax.types import Batch, Params

GatherLayer: TypeAlias = Callable[[Params], Params] | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sums:
    """Of some blocks.

    Attributes:
        loss: Sum of the losses.
        weight: What the sum over the global batch is divided by.
        metrics: Other sums, which are divided by the same.
    """

    loss: Float[Array, ""]
    weight: Float[Array, ""]
    metrics: dict[str, Float[Array, ""]] = field(default_factory=dict)


def token_sums(
    losses: Float[Array, "K M"], right: Bool[Array, "K M"], targets: Int[Array, "K M"]
) -> Sums:
    """The sums over predicted tokens, and how many of them are the likeliest.

    Args:
        losses: -log p of each target.
        right: Whether it is the likeliest token.
        targets: The tokens; -1 is room that is left.
    """
    chosen = targets >= 0
    return Sums(
        loss=jnp.where(chosen, losses, 0.0).sum(),
        weight=chosen.sum(dtype=jnp.float32),
        metrics={"accuracy": (right & chosen).sum(dtype=jnp.float32)},
    )


class Separable(Protocol):
    """A loss beside the coupled one, or in its place."""

    @property
    def name(self) -> str:
        """What its metrics are called by."""

    @property
    def weight(self) -> float:
        """What its mean over the global batch is multiplied by."""

    def sums(
        self,
        params: Params,
        batch: Batch,
        key: Key[Array, ""],
        gather_layer: GatherLayer,
        step: Int[Array, ""] | int = 0,
    ) -> Sums:
        """Sums over some blocks, in the update after so many others."""


class Alongside(Protocol):
    """A loss beside the coupled one that comes from the pass that makes the embeddings."""

    @property
    def name(self) -> str:
        """What its metrics are called by."""

    @property
    def weight(self) -> float:
        """What its mean over the global batch is multiplied by."""

    def encode(
        self, params: Params, batch: Batch, key: Key[Array, ""], gather_layer: GatherLayer
    ) -> tuple[Float[Array, "K T D"], Sums]:
        """Embeddings of some blocks, zero for absent texts, and the sums over them."""
