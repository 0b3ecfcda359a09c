"""Our training step over the batches of a data set, as a run takes it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array

from simjax import mesh as meshes
from simjax.data.config import DataConfig
from simjax.data.pipeline import PackedBatch
from simjax.errors import SimjaxError
from simjax.lab.bench.peers import StepOptions
from simjax.lab.bench.texts import Origin, examples
from simjax.mesh import MeshConfig
from simjax.objectives.config import ContrastiveConfig
from simjax.train.config import Dtype, ModelConfig, RunConfig, TrainConfig
from simjax.train.optimizer_config import AdamW
from simjax.train.setup import set_up


@dataclass(frozen=True)
class Shape:
    """How examples are cut into batches, blocks, rows and micro-batches."""

    batch_size: int
    block_size: int
    row_length: int
    micro_batch: int | None = None


def run_config(
    folder: Path,
    origin: Origin,
    dtype: Dtype,
    shape: Shape,
    options: StepOptions,
    scratch: Path,
) -> RunConfig:
    """A run like sentence-transformers' with MultipleNegativesRankingLoss and AdamW."""
    return RunConfig(
        output=str(scratch / "run"),
        model=ModelConfig(pretrained=str(folder), dtype=dtype),
        data=DataConfig(
            source=origin.source,
            root=None if origin.root is None else str(origin.root),
            batch_size=shape.batch_size,
            block_size=shape.block_size,
            row_length=shape.row_length,
            max_length=options.max_length,
            cache=str(scratch / "stores"),
        ),
        objective=ContrastiveConfig(temperature=1 / options.scale, false_negatives="none"),
        optimizer=AdamW(
            learning_rate=options.learning_rate,
            schedule="constant",
            warmup=0,
            weight_decay=options.weight_decay,
            clip_norm=options.clip_norm,
        ),
        train=TrainConfig(steps=1_000_000, micro_batch=shape.micro_batch),
        mesh=MeshConfig(data=1),
    )


@dataclass(frozen=True)
class Phases:
    """Seconds of the parts of one step."""

    tokenise: float
    assemble: float
    update: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.tokenise + self.assemble + self.update


class Trainer:
    """Batches of a data set, the state, and the compiled step for each shape of batch."""

    def __init__(self, config: RunConfig, origin: Origin) -> None:
        """Tokenise the data set and load the model.

        Raises:
            SimjaxError: model or data are missing or faulty.
        """
        self._run = set_up(config, devices=jax.devices()[:1])
        self.source = self._run.source
        self._examples = examples(origin)
        if len(self._examples) != self.source.num_examples:
            raise SimjaxError(f"{origin.name}: the files changed while they were read")
        self._state = self._run.init_state()
        self._compiled: dict[tuple[int, ...], Any] = {}
        self._tokenizer = self._run.encoder.tokenizer.backend_tokenizer

    def texts(self, number: int) -> list[tuple[str, ...]]:
        """The texts of the examples of a batch."""
        chosen = [self._examples[index] for index in self.source.examples(number)]
        return [(e.anchor, *e.positives, *e.negatives) for e in chosen]

    def compile(self, number: int) -> Any:
        """The step for batches of the shape of this one."""
        packed = self.source[number]
        shape = packed.batch.block.tokens.shape
        if shape not in self._compiled:
            batch = self._place(packed)
            step: Any = self._run.step
            self._compiled[shape] = step.lower(self._state, batch).compile()
        return self._compiled[shape]

    def temporary_bytes(self, number: int) -> int | None:
        """XLA's own count of the memory that a step takes besides state and batch."""
        analysis = self.compile(number).memory_analysis()
        return None if analysis is None else int(analysis.temp_size_in_bytes)

    def step(self, number: int) -> tuple[float, Phases]:
        """Train on a batch, from strings on; returns the loss and where the time went.

        A run tokenises once, before the first step, and assembles batches beside the step. Here
        both are done within it, as they are on the other side.
        """
        start = time.perf_counter()
        texts = [text for row in self.texts(number) for text in row]
        self._tokenizer.encode_batch_fast(texts)
        tokenised = time.perf_counter()
        packed = self.source[number]
        batch = self._place(packed)
        assembled = time.perf_counter()
        self._state, metrics = self.compile(number)(self._state, batch)
        jax.block_until_ready(self._state)
        phases = Phases(tokenised - start, assembled - tokenised, time.perf_counter() - assembled)
        return float(metrics["loss"]), phases

    def _place(self, packed: PackedBatch) -> Any:
        sharding = meshes.batch_sharding(self._run.mesh)
        return jax.tree.map(lambda x: jax.device_put(x, sharding), packed.batch)

    @property
    def embedding_size(self) -> int:
        """Width of an embedding."""
        return self._run.model.embedding_size

    @property
    def params(self) -> dict[str, Array]:
        """The parameters as they are now."""
        return self._state.params


def computed_tokens(packed: PackedBatch) -> int:
    """Places of the rows of a batch, padding included."""
    return round(packed.tokens / packed.fill)
