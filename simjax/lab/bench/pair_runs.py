"""Runs of a random encoder on pairs that need no file: sentences of the built-in corpus cut in two.

They go the way of every run: tokenised into a store, packed, encoded in micro-batches, compared all
with all in both directions, and the parameters updated once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax

from simjax import mesh as meshes
from simjax.data import builtin
from simjax.data.config import LARGEST_BLOCK, DataConfig
from simjax.data.sources import Source
from simjax.errors import UsageError
from simjax.lab.bench.arguments import HEAD
from simjax.mesh import MeshConfig
from simjax.models.encoder import EncoderConfig
from simjax.objectives.config import ContrastiveConfig
from simjax.train.config import Dtype, ModelConfig, RunConfig, TokenizerConfig, TrainConfig
from simjax.train.setup import Run, set_up

SHORTEST = 3
"""Words of a part of a sentence."""
FILE = "pairs.tsv"


@dataclass(frozen=True)
class Shape:
    """What is trained on how many pairs.

    Attributes:
        batch_size: Pairs of a batch.
        micro_batch: Pairs that a device encodes at a time.
        layers: Of the encoder.
        width: Of a token in it.
        vocab_size: Tokens, learned from the pairs.
        dtype: Of the encoder's products.
        keys: How devices see each other's keys; None leaves it to their size.
    """

    batch_size: int
    micro_batch: int
    layers: int
    width: int
    vocab_size: int
    dtype: Dtype
    keys: Literal["all_gather", "ring"] | None = None

    @classmethod
    def of(cls, args: argparse.Namespace, batch_size: int, dtype: Dtype) -> Shape:
        """The one that a command line asks for."""
        own = (args.micro_batch, args.layers, args.width, args.vocab_size)
        return cls(batch_size, *own, dtype, getattr(args, "keys", None))


def make(shape: Shape, scratch: Path, devices: Sequence[jax.Device]) -> Run:
    """A run over some devices, on the pairs that `write_pairs` wrote."""
    config = RunConfig(
        output=str(scratch / "run"),
        model=ModelConfig(
            encoder=EncoderConfig(
                hidden_size=shape.width,
                num_layers=shape.layers,
                num_heads=shape.width // HEAD,
                intermediate_size=4 * shape.width,
            ),
            dtype=shape.dtype,
        ),
        tokenizer=TokenizerConfig(source="train", vocab_size=shape.vocab_size),
        data=DataConfig(
            source=Source(path=str(scratch / FILE)),
            batch_size=shape.batch_size,
            block_size=next(n for n in range(LARGEST_BLOCK, 0, -1) if shape.micro_batch % n == 0),
            cache=str(scratch / "stores"),
        ),
        objective=ContrastiveConfig(temperature=0.05, directions="symmetric"),
        train=TrainConfig(steps=1_000_000, micro_batch=shape.micro_batch),
        mesh=MeshConfig(keys=shape.keys),
    )
    return set_up(config, devices=list(devices))


def measure(run: Run, steps: int, said: Callable[[str], None]) -> dict[str, Any]:
    """Take steps; seconds of each, and figures of the last batch and of the compiled step."""
    state = run.init_state()
    sharding = meshes.batch_sharding(run.mesh)
    seconds, assemble, losses = [], [], []
    compiled: Any = None
    shape: tuple[int, ...] = ()
    for number in range(steps):
        began = time.perf_counter()
        packed = run.source[number]
        assemble.append(time.perf_counter() - began)
        batch = jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(sharding, x), packed.batch
        )
        if shape != packed.batch.block.tokens.shape:
            said("compiling")
            shape = packed.batch.block.tokens.shape
            step: Any = run.step
            compiled = step.lower(state, batch).compile()
        said(f"step {number + 1} of {steps}")
        began = time.perf_counter()
        state, metrics = compiled(state, batch)
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - began)
        losses.append(float(metrics["loss"]))
    figures = {
        "seconds": seconds,
        "assemble_seconds": assemble,
        "loss": losses,
        "pairs_per_second": packed.examples * steps / sum(seconds),
        "real_tokens": packed.tokens,
        "fill": packed.fill,
    }
    analysis = compiled.memory_analysis()
    if analysis is not None:
        figures["temporary_bytes"] = int(analysis.temp_size_in_bytes)
    return figures


def write_pairs(folder: Path, count: int) -> None:
    """Write so many pairs.

    Raises:
        UsageError: The corpus does not make so many.
    """
    with (folder / FILE).open("w", encoding="utf-8") as file:
        file.write("anchor\tpositive\n")
        for made, (anchor, positive) in enumerate(_pairs()):
            if made == count:
                return
            file.write(f"{anchor}\t{positive}\n")
    raise UsageError(f"--batch_size: the built-in corpus makes fewer pairs than {count}; lower it")


def _pairs() -> Iterator[tuple[str, str]]:
    """Sentences cut in the middle; then the same sentences cut elsewhere, while there are any."""
    sentences = [words.split() for words in builtin.corpus().sentences]
    for further in range(max(map(len, sentences))):
        for words in sentences:
            # 0, 1, -1, 2, -2, ... words from the middle
            cut = len(words) // 2 + (further + 1) // 2 * (1 if further % 2 else -1)
            if SHORTEST <= cut <= len(words) - SHORTEST:
                yield " ".join(words[:cut]), " ".join(words[cut:])
