"""What is trained: parameters, how a block is encoded, and the loss of a global batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from simjax.objectives.objective import Examples, Metrics, Objective
from simjax.objectives.separable import Alongside, GatherLayer, Separable
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
class EmbeddingSystem:
    """One tower, or two that are not tied, and a loss of their embeddings.

    Attributes:
        encode: The tower.
        objective: The loss.
        dropout: Whether the tower is random in training, by dropout or by what it cuts off.
        separable: A loss that is learned beside it.
        alongside: One that makes the embeddings itself, in place of `encode`.
    """

    encode: Encode
    objective: Objective
    dropout: bool
    separable: Separable | None = None
    alongside: Alongside | None = None

    def init(self, model: Params, width: int, seed: int, **heads: Params) -> Params:
        """All that is trained.

        Args:
            model: Parameters of the tower.
            width: Of its embeddings.
            seed: Of what the objective draws.
            heads: Parameters of other parts, by their names.
        """
        # The encoder draws from the seed's own key, and heads from the next.
        key = jax.random.fold_in(jax.random.key(seed), 2)
        found = {"model": model, "objective": self.objective.init(width, key)} | heads
        if self.objective.towers == 2:
            found["other"] = jax.tree.map(_another, model)
        return found

    @property
    def encodings(self) -> int:
        """Times that every text is encoded, for the objective."""
        return self.objective.towers * self.objective.passes

    def layers(self, params: Any) -> Any:
        """The part of a tree like the parameters' whose leaves are stacked layer by layer.

        A second tower's is like it.
        """
        return params["model"]["encoder"]["layers"]

    def figures(self, params: Params) -> Metrics:
        """What is learned and logged."""
        return self.objective.figures(params["objective"])

    def constrain(self, params: Params) -> Params:
        """Parameters after an update, within their bounds."""
        return params | {"objective": self.objective.constrain(params["objective"])}

    def encode_blocks(
        self,
        params: Params,
        batch: Batch,
        key: Key[Array, ""],
        gather_layer: GatherLayer = None,
    ) -> Float[Array, "K E W D"]:
        """Embeds some blocks; the result for a block does not depend on the others."""
        towers = ("model",) if self.objective.towers == 1 else ("other", "model")
        found = []
        for number, tower in enumerate(towers * self.objective.passes):
            # Blocks' own keys are folded from it, so none has this number.
            own = jax.random.fold_in(key, jnp.uint32(2**32 - 1 - number)) if number else key
            texts = self.encode(params[tower], batch, own if self.dropout else None, gather_layer)
            found.append(texts.reshape(*batch.ids.shape, texts.shape[-1]))
        return found[0] if len(found) == 1 else jnp.concatenate(found, axis=2)

    def loss(
        self, params: Params, embeddings: Float[Array, "K E W D"], batch: Batch
    ) -> tuple[Float[Array, ""], Metrics]:
        """This device's part of the loss of the global batch, and the batch's metrics."""
        return self.objective.loss(params["objective"], Examples.of(embeddings, batch))


@dataclass(frozen=True)
class SeparableSystem:
    """One tower that is learned by a sum over examples alone; nothing compares embeddings.

    Attributes:
        separable: The loss.
    """

    separable: Separable

    encodings = 1

    def init(self, model: Params, width: int, seed: int, **heads: Params) -> Params:
        """All that is trained; arguments are those of `EmbeddingSystem.init`."""
        return {"model": model} | heads

    def layers(self, params: Any) -> Any:
        """As of `EmbeddingSystem.layers`."""
        return params["model"]["encoder"]["layers"]

    def figures(self, params: Params) -> Metrics:
        """None."""
        return {}

    def constrain(self, params: Params) -> Params:
        """Nothing is bounded."""
        return params


AnySystem: TypeAlias = EmbeddingSystem | SeparableSystem
"""What can be trained."""


def _another(x: Any) -> Any:
    # Of a state that is donated no two leaves may be one array.
    return x if isinstance(x, jax.ShapeDtypeStruct) else jnp.array(x)
