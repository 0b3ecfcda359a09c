"""Whole training steps on a batch that would not fit at once, and the memory of the process.

Pairs go the way of a run: tokenised into a store, packed, encoded in micro-batches, compared all
with all, and the parameters updated once. Each pair is a sentence of the built-in corpus, cut in
two at some word.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simjax.errors import UsageError
from simjax.lab.bench import arguments

if TYPE_CHECKING:
    from simjax.train.config import Dtype, RunConfig

SHORTEST = 3
"""Words of a part of a sentence."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    positive = arguments.positive
    parser.add_argument("--batch_size", type=positive, default=131_072, help="pairs of a batch")
    parser.add_argument(
        "--micro_batch", type=positive, default=1024, help="pairs that are encoded at a time"
    )
    parser.add_argument("--steps", type=positive, default=1, help="steps that are timed")
    parser.add_argument("--layers", type=positive, default=2, help="of the encoder")
    parser.add_argument("--width", type=positive, default=128, help="of a token in the encoder")
    parser.add_argument("--vocab_size", type=positive, default=8192, help="tokens, learned here")
    arguments.add_dtype(parser)
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, print, and return the figures.

    Raises:
        UsageError: The micro-batch does not divide the batch, or the corpus has fewer pairs.
    """
    from simjax.lab.bench import machine, report

    if args.batch_size % args.micro_batch:
        raise UsageError(
            f"--micro_batch {args.micro_batch} does not divide --batch_size {args.batch_size}"
        )
    machine.share_accelerator()
    settings = {
        "batch": f"{args.batch_size:,} pairs in micro-batches of {args.micro_batch:,}",
        "encoder": f"{args.layers} layers of width {args.width}, random, with dropout",
        "of": "halves of built-in sentences",
    }
    result = report.Report.begin("large_batch", settings)
    with tempfile.TemporaryDirectory(prefix="simjax-bench-") as scratch, report.telling() as said:
        said("making pairs")
        _write_pairs(Path(scratch) / "pairs.tsv", args.batch_size)
        for dtype in arguments.dtypes(args):
            result.contenders[f"simjax {dtype}"] = _measure(args, dtype, Path(scratch), said)
    result.show(
        [
            report.Column("seconds", "step (middle half)", report.seconds),
            report.Column("assemble_seconds", "packing, beside the step", report.seconds),
            report.Column("pairs_per_second", "pairs/s", lambda x: f"{x:,.0f}"),
            report.Column("real_tokens", "tokens", lambda x: f"{x:,}"),
            report.Column("fill", "fill", lambda x: f"{x:.1%}"),
            report.Column("temporary_bytes", "temporary memory", report.size),
            report.Column("process_bytes", "peak of the process", report.size),
            report.Column("loss", "loss", lambda values: f"{values[-1]:.3f}"),
        ]
    )
    return result.write(args.json)


def run_config(args: argparse.Namespace, dtype: Dtype, scratch: Path) -> RunConfig:
    """The run whose first steps are measured."""
    from simjax.data.config import LARGEST_BLOCK, DataConfig
    from simjax.data.sources import Source
    from simjax.mesh import MeshConfig
    from simjax.models.encoder import EncoderConfig
    from simjax.objectives.config import ObjectiveConfig
    from simjax.train.config import ModelConfig, RunConfig, TokenizerConfig, TrainConfig

    heads = next(heads for heads in (args.width // 32, 2, 1) if heads and args.width % heads == 0)
    block = next(n for n in range(LARGEST_BLOCK, 0, -1) if args.micro_batch % n == 0)
    return RunConfig(
        output=str(scratch / "run"),
        model=ModelConfig(
            encoder=EncoderConfig(
                hidden_size=args.width,
                num_layers=args.layers,
                num_heads=heads,
                intermediate_size=4 * args.width,
            ),
            dtype=dtype,
        ),
        tokenizer=TokenizerConfig(source="train", vocab_size=args.vocab_size),
        data=DataConfig(
            source=Source(path=str(scratch / "pairs.tsv")),
            batch_size=args.batch_size,
            block_size=block,
            cache=str(scratch / "stores"),
        ),
        objective=ObjectiveConfig(temperature=0.05, directions="symmetric"),
        train=TrainConfig(steps=1_000_000, micro_batch=args.micro_batch),
        mesh=MeshConfig(data=1),
    )


def _measure(args: argparse.Namespace, dtype: Dtype, scratch: Path, said: Any) -> dict[str, Any]:
    import jax

    from simjax import mesh as meshes
    from simjax.lab.bench import memory
    from simjax.train.setup import set_up

    said(f"tokenising: {dtype}")
    parts = set_up(run_config(args, dtype, scratch), devices=jax.devices()[:1])
    state = parts.init_state()
    sharding = meshes.batch_sharding(parts.mesh)
    figures: dict[str, Any] = {"seconds": [], "assemble_seconds": [], "loss": []}
    compiled: Any = None
    shape: tuple[int, ...] = ()
    for number in range(args.steps):
        began = time.perf_counter()
        packed = parts.source[number]
        figures["assemble_seconds"].append(time.perf_counter() - began)
        batch = jax.tree.map(lambda x: jax.device_put(x, sharding), packed.batch)
        if shape != packed.batch.block.tokens.shape:
            said(f"compiling: {dtype}")
            shape = packed.batch.block.tokens.shape
            step: Any = parts.step
            compiled = step.lower(state, batch).compile()
        said(f"step {number + 1} of {args.steps}: {dtype}")
        began = time.perf_counter()
        state, metrics = compiled(state, batch)
        jax.block_until_ready(state)
        figures["seconds"].append(time.perf_counter() - began)
        figures["loss"].append(float(metrics["loss"]))
    analysis = compiled.memory_analysis()
    if analysis is not None:
        figures["temporary_bytes"] = int(analysis.temp_size_in_bytes)
    return figures | {
        "pairs_per_second": args.batch_size * args.steps / sum(figures["seconds"]),
        "real_tokens": packed.tokens,
        "fill": packed.fill,
        "process_bytes": memory.highest(),
    }


def _write_pairs(path: Path, count: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("anchor\tpositive\n")
        for made, (anchor, positive) in enumerate(_pairs()):
            if made == count:
                return
            file.write(f"{anchor}\t{positive}\n")
    raise UsageError(f"--batch_size {count}: the built-in corpus makes fewer pairs; lower it")


def _pairs() -> Iterator[tuple[str, str]]:
    """Sentences cut in the middle; then the same sentences cut elsewhere, while there are any."""
    from simjax.data import builtin

    sentences = [words.split() for words in builtin.corpus().sentences]
    for further in range(max(map(len, sentences))):
        for words in sentences:
            # 0, 1, -1, 2, -2, ... words from the middle
            cut = len(words) // 2 + (further + 1) // 2 * (1 if further % 2 else -1)
            if SHORTEST <= cut <= len(words) - SHORTEST:
                yield " ".join(words[:cut]), " ".join(words[cut:])
