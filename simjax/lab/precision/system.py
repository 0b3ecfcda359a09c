"""What part two trains: an encoder and a loss of `simjax.lab.precision.arms`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from simjax.lab.precision import arms
from simjax.lab.precision.arms import Arithmetic
from simjax.lab.precision.settings import Form, Optimizer
from simjax.mesh import global_sum
from simjax.models.sentence_model import GraphDef, merge
from simjax.objectives.sides import unit
from simjax.train.optimizer import decay_mask
from simjax.types import Batch, Params


@dataclass(frozen=True)
class ArmSystem:
    """One tower and one loss, dense, on one device; a `simjax.train.step.System`.

    Attributes:
        graphdef: Structure of the sentence model.
        form: The loss.
        how: Its arithmetic.
        temperature: Scores are cosine / temperature.
    """

    graphdef: GraphDef
    form: Form
    how: Arithmetic
    temperature: float

    separable = alongside = None

    def encode_blocks(
        self, params: Params, batch: Batch, key: Any, gather_layer: Any = None
    ) -> Float[Array, "K E V D"]:
        """Embeddings of some blocks; there is no dropout."""
        texts = merge(self.graphdef, params)(batch.block)
        return texts.reshape(*batch.ids.shape, texts.shape[-1])

    def loss(
        self, params: Params, embeddings: Float[Array, "K E V D"], batch: Batch
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Mean loss of the batch, and, in float32 whatever the arm, what v was.

        Metrics: `loss` is softplus(v), `mean_v` the mean of v, `mean_weight` that of sigmoid(v).
        """
        x, y = (unit(embeddings[:, :, view].reshape(-1, embeddings.shape[-1])) for view in (0, 1))
        scale = jnp.float32(1 / self.temperature)
        losses = arms.row_losses(self.form, arms.scores(x, y, scale, self.how))
        v = jax.lax.stop_gradient(arms.log_odds(arms.scores(x, y, scale, arms.FLOAT32)))
        metrics = {
            "loss": jax.nn.softplus(v).mean(),
            "mean_v": v.mean(),
            "mean_weight": jax.nn.sigmoid(v).mean(),
        }
        return losses.astype(jnp.float32).mean(), global_sum(metrics)

    def layers(self, params: Any) -> Any:
        """The part of a tree like the parameters' whose leaves are stacked layer by layer."""
        return params["encoder"]["layers"]

    def figures(self, params: Params) -> dict[str, Float[Array, ""]]:
        """1 / temperature."""
        return {"scale": jnp.float32(1 / self.temperature)}

    def constrain(self, params: Params) -> Params:
        """Nothing is bounded."""
        return params


def make_optimizer(
    name: Optimizer, steps: int, weight_decay: float, params: Params
) -> optax.GradientTransformation:
    """AdamW or plain SGD, whose learning rate falls linearly to 0.

    The peak rate stands in the optimiser's state (`set_rate`), so that one compiled step serves
    every rate.
    """

    def make(learning_rate: Any) -> optax.GradientTransformation:
        parts = [optax.scale_by_schedule(optax.linear_schedule(1.0, 0.0, steps))]
        if name == "adamw":
            mask = decay_mask(params)
            parts = [optax.scale_by_adam(), optax.add_decayed_weights(weight_decay, mask), *parts]
        return optax.chain(*parts, optax.scale(-learning_rate))

    return optax.inject_hyperparams(make)(learning_rate=0.0)


def set_rate(opt_state: optax.OptState, rate: Float[Array, ""]) -> optax.OptState:
    """The state of an optimiser of `make_optimizer` with another peak learning rate."""
    return optax.tree_utils.tree_set(opt_state, learning_rate=rate)
