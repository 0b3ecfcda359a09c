"""What a step is made of: system, optimiser and partitions, from parameters or their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import optax

from simjax.errors import UsageError
from simjax.mesh import AnyMesh, MeshConfig
from simjax.models.config import EncoderConfig
from simjax.models.lm_head import LanguageModelHead
from simjax.models.sentence_model import SentenceModel, split
from simjax.objectives.masked_lm import Vocabulary
from simjax.objectives.system import ContrastiveSystem
from simjax.train import lora, optimizer, trained
from simjax.train.config import RunConfig
from simjax.train.schedule import Schedule
from simjax.train.state import TrainState, abstract_state, state_specs
from simjax.train.step import Step, StepOptions, make_step
from simjax.train.system import make_system
from simjax.types import Params


@dataclass(frozen=True)
class Update:
    """Everything that a step needs, but for its micro-batch.

    Attributes:
        config: Of the run.
        mesh: The devices.
        system: What is trained.
        params: All that is trained, before the first step, or its shapes.
        tx: The optimiser.
        schedule: Its learning rate.
        specs: Partition of the state.
        mask: Which of the parameters are trained, as of `trained.trained_mask`; None is all.
    """

    config: RunConfig
    mesh: AnyMesh
    system: ContrastiveSystem
    params: Params
    tx: optax.GradientTransformation
    schedule: Schedule
    specs: TrainState
    mask: Any = None

    def step(self, micro_blocks: int) -> Step:
        """The step that encodes so many blocks of a device at a time."""
        config = self.config
        options = StepOptions(
            micro_blocks,
            config.mesh.gather,
            config.optimizer.clip_norm,
            config.seed,
            config.train.ema,
            config.train.noise_scale,
        )
        return make_step(
            self.system, self.tx, self.schedule, self.specs, self.mesh, options, self.mask
        )

    def abstract_state(self) -> TrainState:
        """Shapes, types and shardings of the state."""
        average = self.config.train.ema is not None
        return abstract_state(self.params, self.tx, self.mesh, average=average)


def check_tensor(config: MeshConfig, shape: EncoderConfig) -> None:
    """Refuses a tensor axis over which an encoder's layers cannot be shared out.

    Raises:
        UsageError: With the size that does not divide.
    """
    for name in ("num_heads", "intermediate_size"):
        if getattr(shape, name) % config.tensor:
            raise UsageError(
                f"mesh.tensor: {config.tensor} does not divide the encoder's {name}, which is "
                f"{getattr(shape, name)}; choose a divisor"
            )


def make_update(
    config: RunConfig,
    mesh: AnyMesh,
    model: SentenceModel,
    heads: Mapping[str, LanguageModelHead],
    num_positives: int,
    vocabulary: Vocabulary | None,
    total_steps: int,
) -> Update:
    """The update of a configuration.

    Args:
        config: Of the run.
        mesh: The devices.
        model: What training starts from, or its shapes (`nnx.eval_shape`).
        heads: What is trained with it, or their shapes.
        num_positives: Positives of an example.
        vocabulary: What masked tokens are drawn from, where some are.
        total_steps: Of the run, which the learning rate spans.

    Raises:
        UsageError: A pattern of parameters matches none, or warm-up is longer than the run.
    """
    graphdef, model_params = split(model)
    system = make_system(config, graphdef, model.config, num_positives, vocabulary, heads)
    adapted = lora.with_adapters(model_params, config.model.lora, config.seed)
    params = system.init(adapted, **{name: split(head)[1] for name, head in heads.items()})
    tx, schedule = optimizer.make(config.optimizer, total_steps, config.data.batch_size)
    mask, frozen = None, config.train.freeze
    if config.model.lora is not None:
        frozen = (*frozen, lora.FROZEN)
    if frozen:
        mask = trained.trained_mask(params, frozen)
        if not any(leaf.any() for leaf in jax.tree.leaves(mask["model"])):
            raise UsageError("train.freeze: no parameter of the encoder is left to train")
        tx = trained.only(tx, mask)
    specs = state_specs(params, tx, mesh, average=config.train.ema is not None)
    return Update(config, mesh, system, params, tx, schedule, specs, mask)
