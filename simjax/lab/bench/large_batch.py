"""Whole training steps on a batch that would not fit at once, and the memory of the process.

Pairs go the way of a run: tokenised into a store, packed, encoded in micro-batches, compared all
with all, and the parameters updated once. Each pair is a sentence of the built-in corpus, cut in
two at some word.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from simjax.argument_types import positive
from simjax.errors import UsageError
from simjax.lab.bench import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--batch_size", type=positive, default=131_072, help="pairs of a batch")
    parser.add_argument(
        "--micro_batch", type=positive, default=1024, help="pairs that are encoded at a time"
    )
    parser.add_argument("--steps", type=positive, default=1, help="steps that are timed")
    arguments.add_encoder(parser)
    arguments.add_dtype(parser)
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, print, and return the figures.

    Raises:
        UsageError: The micro-batch does not divide the batch, or the corpus has fewer pairs.
    """
    import jax

    from simjax.lab.bench import machine, memory, pair_runs, report

    if args.batch_size % args.micro_batch:
        raise UsageError(
            f"--micro_batch {args.micro_batch} does not divide --batch_size {args.batch_size}"
        )
    arguments.check_width(args)
    machine.share_accelerator()
    settings = {
        "batch": f"{args.batch_size:,} pairs in micro-batches of {args.micro_batch:,}",
        "encoder": f"{args.layers} layers of width {args.width}, random, with dropout",
        "of": "halves of built-in sentences",
    }
    result = report.Report.begin("large_batch", settings)
    with tempfile.TemporaryDirectory(prefix="simjax-bench-") as scratch, report.telling() as said:
        said("making pairs")
        pair_runs.write_pairs(Path(scratch), args.batch_size)
        for dtype in arguments.dtypes(args):
            said(f"tokenising: {dtype}")
            memory.settle()  # the peak of the one before is none of this one's
            shape = pair_runs.Shape.of(args, args.batch_size, dtype)
            parts = pair_runs.make(shape, Path(scratch), jax.devices()[:1])
            figures = pair_runs.measure(parts, args.steps, said)
            figures["process_bytes"] = memory.highest()
            result.contenders[f"simjax {dtype}"] = figures
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
