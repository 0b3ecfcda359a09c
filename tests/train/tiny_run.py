"""Runs small enough to be trained in seconds, in this process and in others."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from simjax.checkpoint.config import CheckpointConfig
from simjax.checkpoint.manager import Checkpoints
from simjax.data.config import DataConfig
from simjax.data.sources import Source
from simjax.eval.tasks import EvalConfig, Task
from simjax.mesh import MeshConfig
from simjax.models.encoder import EncoderConfig
from simjax.train import config as run_config
from simjax.train import loop, metrics
from simjax.train.config import ModelConfig, RunConfig, TokenizerConfig, TrainConfig
from simjax.train.optimizer_config import AdamW
from simjax.train.setup import set_up
from simjax.train.state import TrainState

DEVICES = 8
EXAMPLES, BATCH, BLOCK = 96, 32, 2
EPOCHS = 4
TOTAL = EPOCHS * EXAMPLES // BATCH
EVALUATED, SAVED = 4, 3
"""Steps between evaluations, and between checkpoints."""
STOPPED = 5
"""A step that is neither evaluated nor saved, in the middle of an epoch."""
WORDS = [a + b for a in ("ba", "ce", "di", "fo", "gu") for b in ("lan", "mer", "nis", "pot", "ruk")]
SPEEDS = {
    "pairs_per_second",
    "tokens_per_second",
    "data_wait",
    "mfu",
    "memory_peak",
    "compile_seconds",
}
"""Figures that differ from run to run."""


def write_data(folder: Path, examples: int = EXAMPLES) -> Path:
    """Triples, a vocabulary and a similarity set.

    All texts have six words: every batch has the same number of rows, so one program is compiled.
    """
    random = np.random.default_rng(0)
    draw = [random.choice(WORDS, 6, replace=False) for _ in range(2 * examples)]
    with (folder / "triples.csv").open("w") as file:
        file.write("anchor,positive,negative\n")
        for one, other in zip(draw[::2], draw[1::2], strict=True):
            file.write(f"{' '.join(one)},{' '.join(one[::-1])},{' '.join(other)}\n")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join(special + WORDS) + "\n")
    lines = []
    for one, other in zip(draw[:32:2], draw[1:32:2], strict=True):
        same = int(random.integers(0, 7))
        lines.append(f"{' '.join(one)}\t{' '.join([*one[:same], *other[same:]])}\t{5 * same / 6}\n")
    (folder / "sts-dev.tsv").write_text("sentence1\tsentence2\tscore\n" + "".join(lines))
    return folder


def config_for(data: Path, output: Path, **changes: Any) -> RunConfig:
    """A run with dropout, on four by two devices, that takes every step in two micro-batches."""
    config = RunConfig(
        output=str(output),
        model=ModelConfig(
            encoder=EncoderConfig(
                hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32, max_positions=16
            )
        ),
        tokenizer=TokenizerConfig(source=str(data / "vocab.txt")),
        data=DataConfig(
            root=str(data),
            source=Source(
                path="triples.csv",
                anchor="anchor",
                positives=("positive",),
                negatives=("negative",),
            ),
            batch_size=BATCH,
            block_size=BLOCK,
            row_length=16,
            max_length=16,
            cache=str(data / "cache"),
        ),
        # A large epsilon: where a gradient is 0 but for rounding, Adam would make a step of it.
        optimizer=AdamW(learning_rate=0.02, eps=1e-5, warmup=2),
        train=TrainConfig(epochs=EPOCHS, micro_batch=BLOCK, log_every=1),
        mesh=MeshConfig(data=4, fsdp=2),
        checkpoint=CheckpointConfig(every=0, keep=2),
    )
    return dataclasses.replace(config, **changes)


def recipe(data: Path, output: Path, **changes: Any) -> RunConfig:
    """A run that is evaluated and saved now and then, and keeps its best checkpoint."""
    tasks = (Task("sts", "sts-dev.tsv"),)
    evaluation = EvalConfig(tasks=tasks, every=EVALUATED, metric="sts-dev/spearman")
    checkpoint = CheckpointConfig(every=SAVED, keep=2)
    return config_for(
        data, output, **{"evaluation": evaluation, "checkpoint": checkpoint} | changes
    )


def train(config: RunConfig, console: Console | None = None) -> dict[str, Any]:
    """Trains in silence, unless a console is given."""
    return loop.train(config, console=console or Console(file=io.StringIO(), width=100))


class StopAfter:
    """Stands for `StopRequest`: a signal during step `steps`."""

    name = "SIGTERM"
    steps = STOPPED

    def __init__(self) -> None:
        self.asked = 0

    def __enter__(self) -> StopAfter:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def requested(self) -> bool:
        self.asked += 1
        return self.asked >= self.steps


@contextmanager
def compilations_kept_in(folder: Path) -> Iterator[None]:
    """The same program is compiled once, in this process and in those of `start`."""
    from jax.experimental.compilation_cache import compilation_cache

    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def environment(devices: int = DEVICES) -> dict[str, str]:
    """Of a process that computes as this one does."""
    settings = ("jax_persistent_cache_min_compile_time_secs", "jax_compilation_cache_dir")
    values = {name.upper(): getattr(jax.config, name) for name in settings}
    return (
        os.environ
        | {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONUNBUFFERED": "1"}
        | {name: str(value) for name, value in values.items() if value is not None}
    )


def start(
    config: RunConfig, folder: Path, module: str = "simjax", options: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """`simjax train`, or what stands for simjax, in a process of its own."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(run_config.dump(config), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", module, "train", str(recipe), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    )


def lines(output: Path) -> list[dict[str, Any]]:
    """What a run has written into its metrics so far."""
    path = output / metrics.FILE
    return metrics.read(path) if path.exists() else []


def figures(output: Path) -> list[dict[str, Any]]:
    """The metrics that depend on the run alone, and not on the machine's speed."""
    kept = [{k: v for k, v in line.items() if k not in SPEEDS} for line in lines(output)]
    return json.loads(json.dumps(kept))


def saved_steps(config: RunConfig) -> set[int]:
    folder = Path(config.output) / "checkpoints"
    return {int(path.name) for path in folder.iterdir() if path.name.isdecimal()}


def state_at(config: RunConfig, step: int | None = None) -> TrainState:
    """The state that a run saved, by default its last, as arrays of this process."""
    target = set_up(config).abstract_state()
    with Checkpoints(Path(config.output) / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.latest() if step is None else step
        assert step is not None
        state, data = checkpoints.restore(step, target)
    assert data == {"next_index": step} and int(state.step) == step
    return jax.tree.map(np.asarray, state)


def assert_same_bits(one: TrainState, other: TrainState) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert left.dtype == right.dtype and left.tobytes() == right.tobytes()
