"""What is trained: parameters, how a block is encoded, and the loss of a global batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from simjax.objectives.config import ObjectiveConfig
from simjax.objectives.contrastive import Metrics, Views, contrastive_loss
from simjax.objectives.separable import Alongside, GatherLayer, Separable
from simjax.ops import Exchange
from simjax.types import Batch, Params


class Encode(Protocol):
    """Embeds the texts of a batch's blocks, with dropout where there is a key."""

    def __call__(
        self,
        params: Params,
        batch: Batch,
        dropout_key: Key[Array, ""] | None,
        gather_layer: GatherLayer,
    ) -> Float[Array, "K T D"]:
        """Vectors of any length, zero for absent texts."""


@dataclass(frozen=True)
class ContrastiveSystem:
    """One tower whose views of an example are drawn together, and others pushed apart.

    Attributes:
        encode: The tower.
        objective: The loss.
        views: How the texts of an example are used.
        dropout: Whether the tower drops out in training.
        dtype: What the operands of the score products are rounded to.
        exchange: How devices see each other's keys; None goes by their size.
        separable: A loss that is learned beside it.
        alongside: One that makes the embeddings itself, in place of `encode`.
    """

    encode: Encode
    objective: ObjectiveConfig
    views: Views
    dropout: bool
    dtype: DTypeLike = jnp.float32
    exchange: Exchange | None = None
    separable: Separable | None = None
    alongside: Alongside | None = None

    def init(self, model: Params, **heads: Params) -> Params:
        """All that is trained, from the parameters of the tower and of heads by their names."""
        learned = {}
        if self.objective.learnable_temperature:
            learned["log_scale"] = jnp.float32(-math.log(self.objective.temperature))
        return {"model": model, "objective": learned} | heads

    def layers(self, params: Any) -> Any:
        """The part of a tree like the parameters' whose leaves are stacked layer by layer."""
        return params["model"]["encoder"]["layers"]

    def scale(self, params: Params) -> Float[Array, ""]:
        """1 / temperature."""
        if not self.objective.learnable_temperature:
            return jnp.float32(1 / self.objective.temperature)
        return jnp.exp(params["objective"]["log_scale"])

    def constrain(self, params: Params) -> Params:
        """Parameters after an update, a learned scale held at the objective's `max_scale`.

        The parameter itself is clamped, as CLIP's is (arXiv 2103.00020, section 2.5): clamping
        its use would leave it without a gradient once it is beyond the bound.
        """
        if not self.objective.learnable_temperature:
            return params
        top = math.log(self.objective.max_scale)
        held = jnp.minimum(params["objective"]["log_scale"], top)
        return params | {"objective": {"log_scale": held}}

    def encode_blocks(
        self,
        params: Params,
        batch: Batch,
        key: Key[Array, ""],
        gather_layer: GatherLayer = None,
    ) -> Float[Array, "K E V D"]:
        """Embeds some blocks; the result for a block does not depend on the others."""
        texts = self.encode(params["model"], batch, key if self.dropout else None, gather_layer)
        return texts.reshape(*batch.ids.shape, texts.shape[-1])

    def loss(
        self, params: Params, embeddings: Float[Array, "K E V D"], batch: Batch
    ) -> tuple[Float[Array, ""], Metrics]:
        """This device's part of the loss of the global batch, and the batch's metrics."""
        blocks, size, views, width = embeddings.shape
        ids, labels, place = (jnp.asarray(x) for x in (batch.ids, batch.labels, batch.place))
        example = place[:, None] * size + jnp.arange(size, dtype=place.dtype)
        guide = batch.guide
        if guide is not None:
            guide = jnp.reshape(guide, (blocks * size, views, -1))
        return contrastive_loss(
            embeddings.reshape(blocks * size, views, width),
            ids.reshape(blocks * size, views),
            labels.reshape(-1),
            example.reshape(-1),
            self.scale(params),
            self.objective,
            self.views,
            guide=guide,
            dtype=self.dtype,
            exchange=self.exchange,
        )
