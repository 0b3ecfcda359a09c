"""Recipes that are planned, and the parts of their plans."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from simjax.data.config import DataConfig
from simjax.mesh import MeshConfig, make_mesh
from simjax.models.encoder import EncoderConfig
from simjax.objectives.config import ContrastiveConfig, GuideConfig
from simjax.plan import rows
from simjax.plan.program import Program, make_program
from simjax.plan.shapes import abstract_model
from simjax.train.config import ModelConfig, RunConfig, TokenizerConfig, TrainConfig
from simjax.train.lora import LoraConfig

TOKENS = 24.0
"""Of a text, in the mean."""


GUIDE = GuideConfig("sentence-transformers/all-MiniLM-L6-v2", margin=0.1)
"""One whose width, 384, is known without its files."""


def recipe(
    *,
    batch_size: int = 64,
    block_size: int = 8,
    micro_batch: int | None = None,
    remat: Any = None,
    dtype: Any = "float32",
    mesh: MeshConfig | None = None,
    objective: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
    **encoder: Any,
) -> RunConfig:
    """A small encoder on dropout views."""
    shape = {
        "hidden_size": 32,
        "num_layers": 3,
        "num_heads": 4,
        "intermediate_size": 96,
        "max_positions": 64,
    }
    return RunConfig(
        output="unused",
        model=ModelConfig(encoder=EncoderConfig(**shape | encoder), dtype=dtype),
        tokenizer=TokenizerConfig(source="train", vocab_size=512),
        data=DataConfig(
            views="dropout",
            batch_size=batch_size,
            block_size=block_size,
            row_length=64,
            max_length=48,
        ),
        objective=ContrastiveConfig(**objective or {}),
        train=dataclasses.replace(TrainConfig(micro_batch=micro_batch, remat=remat), **train or {}),
        mesh=mesh or MeshConfig(data=1),
    )


def with_adapters(config: RunConfig, **lora: Any) -> RunConfig:
    """A recipe that trains adapters."""
    model = dataclasses.replace(config.model, lora=LoraConfig(**lora))
    return dataclasses.replace(config, model=model)


def program(config: RunConfig, devices: list[jax.Device] | None = None) -> Program:
    """The step of a recipe, on the devices of this process unless others are given."""
    mesh = make_mesh(config.mesh, devices)
    return make_program(config, mesh, abstract_model(config), rows.stated(config.data, TOKENS))
