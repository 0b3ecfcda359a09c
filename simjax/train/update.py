"""What a step is made of: system, optimiser and partitions, from parameters or their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import optax
from flax import nnx

from simjax.errors import UsageError
from simjax.mesh import AnyMesh, MeshConfig
from simjax.models.config import EncoderConfig
from simjax.models.sentence_model import SentenceModel, split
from simjax.objectives.config import SoftmaxConfig
from simjax.objectives.system import AnySystem
from simjax.train import lora, optimizer, trained
from simjax.train.config import RunConfig
from simjax.train.schedule import Schedule
from simjax.train.state import TrainState, abstract_state, state_specs
from simjax.train.step import Step, StepOptions, make_step
from simjax.train.system import Facts, make_system
from simjax.train.view_checks import (
    check_dropout,
    check_r_drop,
    check_segments,
    told_apart_by_dropout,
)
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
    system: AnySystem
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


def check_shape(config: RunConfig, shape: EncoderConfig) -> None:
    """What `train.config` asks of a random encoder, of a pretrained one that is now known.

    Raises:
        UsageError: It has too few positions for the texts, no dropout to tell views or passes
            apart, no token types to tell one of two texts from the other, or too few layers for
            latents.
    """
    name, longest = config.model.pretrained, config.data.max_length
    if name is None:
        return
    if longest > shape.max_positions:
        raise UsageError(
            f"data.max_length is {longest} and {name} has {shape.max_positions} positions: texts "
            "must not be longer than the encoder allows"
        )
    if told_apart_by_dropout(config.data):
        check_dropout(name, shape.hidden_dropout, shape.attention_dropout)
    check_segments(config.data.views, name, shape)
    if isinstance(config.objective, SoftmaxConfig):
        check_r_drop(
            config.objective, config.data, name, shape.hidden_dropout, shape.attention_dropout
        )
    if config.model.latents is not None:
        config.model.latents.check(shape)


def check_parts(config: RunConfig, parts: int, several: bool) -> None:
    """Refuses to compare the parts of a batch that is one.

    Args:
        config: Of the run.
        parts: Devices that it is split over.
        several: Whether a device has several micro-batches of it.

    Raises:
        UsageError: The gradient's noise is wanted, and there is nothing to measure it by.
    """
    if config.train.noise_scale and parts == 1 and not several:
        raise UsageError(
            "train.noise_scale compares the parts of a batch, and there is one: give "
            "train.micro_batch, or more devices"
        )


def make_update(
    config: RunConfig,
    mesh: AnyMesh,
    model: SentenceModel,
    heads: Mapping[str, nnx.Module],
    facts: Facts,
    total_steps: int,
) -> Update:
    """The update of a configuration.

    Args:
        config: Of the run.
        mesh: The devices.
        model: What training starts from, or its shapes (`nnx.eval_shape`).
        heads: What is trained with it, or their shapes.
        facts: What is known of the data.
        total_steps: Of the run, which the learning rate spans.

    Raises:
        UsageError: A pattern of parameters matches none, or warm-up is longer than the run.
    """
    graphdef, model_params = split(model)
    system = make_system(config, graphdef, model.config, facts, heads)
    adapted = lora.with_adapters(model_params, config.model.lora, config.seed)
    learned = {name: split(head)[1] for name, head in heads.items()}
    params = system.init(adapted, model.embedding_size, config.seed, **learned)
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
