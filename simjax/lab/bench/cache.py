"""What the gradient cache costs: a large batch in micro-batches beside small whole batches.

The large batch and the small ones hold the same examples. Memory is XLA's temporary size, which
is all that a step takes besides parameters, optimiser state and the batch's token ids.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from simjax.errors import UsageError
from simjax.lab.bench import arguments
from simjax.lab.bench.peers import StepOptions
from simjax.lab.bench.report import Column, Goal, Ratio, Report, seconds, size, telling
from simjax.lab.bench.texts import Origin, triples
from simjax.lab.bench.timing import paired_ratio
from simjax.lab.bench.trainer import Shape, Trainer, run_config
from simjax.train.config import Dtype

TIME_GOAL = Goal(1.4, "at most")
MEMORY_GOAL = Goal(4.0, "at most")
"""Times an example's embeddings, in all their copies: as encoded, as unit vectors, cut into tiles,
and the gradients of these. An example's activations are a thousand times its embeddings."""


def run(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Measure, print, and return the figures.

    Raises:
        UsageError: the batch sizes do not divide each other.
    """
    large, small = args.cache_batch_size, args.batch_size
    if large % small:
        raise UsageError(f"--cache_batch_size {large} is no multiple of --batch_size {small}")
    origin = triples(args.data_root)
    settings = {
        "model": arguments.model_name(args),
        "batch": f"{large} in micro-batches of {small}, beside {large // small} batches of {small}",
        "of": origin.name,
        "block_size": args.block_size,
        "rounds": args.rounds,
    }
    result = Report.begin("train --cache", settings, origin.note)
    with telling() as said:
        for dtype in arguments.dtypes(args):
            said(f"compiling: {dtype}")
            uncached, cached = (
                _trainer(args, origin, dtype, scratch, batch_size) for batch_size in (small, large)
            )
            _time(result, dtype, uncached, cached, large // small, args.rounds, said)
            _memory(result, args, origin, dtype, scratch, uncached, cached, said)
    result.show(
        [
            Column("seconds", "time (middle half)", seconds),
            Column("examples", "examples", lambda x: f"{x:,}"),
            Column("seconds_per_example", "per example", lambda x: f"{1e3 * x:.2f} ms"),
            Column("fill", "fill", lambda x: f"{x:.1%}"),
            Column("temporary_bytes", "temporary memory", size),
        ]
    )
    return result.write(args.json)


def _trainer(
    args: argparse.Namespace, origin: Origin, dtype: Dtype, scratch: Path, batch_size: int
) -> Trainer:
    micro = args.batch_size if batch_size > args.batch_size else None
    shape = Shape(batch_size, args.block_size, args.row_length, micro)
    folder = arguments.model_folder(args)
    options = StepOptions(args.max_length)
    return Trainer(run_config(folder, origin, dtype, shape, options, scratch), origin)


def _time(
    result: Report,
    dtype: Dtype,
    uncached: Trainer,
    cached: Trainer,
    count: int,
    rounds: int,
    said: Any,
) -> None:
    """Half of the small batches, the large one, the other half: what drifts falls on both."""
    for number in range(count):
        uncached.compile(number)
    cached.compile(0)
    uncached.step(count)
    small: list[float] = []
    large: list[float] = []
    for number in range(rounds):
        said(f"round {number + 1} of {rounds}: {dtype}")
        half = count // 2
        total = sum(uncached.step(n)[1].update for n in range(half))
        large.append(cached.step(0)[1].update)
        small.append(total + sum(uncached.step(n)[1].update for n in range(half, count)))
    for name, trainer, times, numbers in (
        (_name(dtype, uncached), uncached, small, range(count)),
        (_name(dtype, cached), cached, large, range(1)),
    ):
        batches = [trainer.source[n] for n in numbers]
        examples = sum(batch.examples for batch in batches)
        result.contenders[name] = {
            "seconds": times,
            "examples": examples,
            "seconds_per_example": sum(times) / len(times) / examples,
            "fill": sum(batch.fill for batch in batches) / len(batches),
            "temporary_bytes": trainer.temporary_bytes(0),
        }
    result.ratios.append(
        Ratio.of(
            f"time per example, cached over uncached, {dtype}",
            paired_ratio(large, small),
            TIME_GOAL,
        )
    )


def _name(dtype: str, trainer: Trainer) -> str:
    return f"batch {trainer.source.config.batch_size} {dtype}"


def _memory(
    result: Report,
    args: argparse.Namespace,
    origin: Origin,
    dtype: Dtype,
    scratch: Path,
    uncached: Trainer,
    cached: Trainer,
    said: Any,
) -> None:
    """Temporary size at growing batches in the same micro-batches."""
    micro, large = args.batch_size, args.cache_batch_size
    found: dict[int, int] = {}
    batch_size = large
    while batch_size >= max(large // 4, 2 * micro):
        said(f"compiling for batch {batch_size}: {dtype}")
        trainer = cached
        if batch_size != large:
            trainer = _trainer(args, origin, dtype, scratch, batch_size)
        bytes_ = trainer.temporary_bytes(0)
        if bytes_ is None:
            result.notes.append("this backend does not tell the temporary size of a step")
            return
        found[batch_size] = bytes_
        row = result.contenders.setdefault(_name(dtype, trainer), {})
        row["temporary_bytes"] = bytes_
        batch_size //= 2
    if len(found) > 1:
        growth = (found[large] - found[min(found)]) / (large - min(found))
        embeddings = 4 * cached.source.num_views * cached.embedding_size
        result.ratios.append(
            Ratio(
                f"temporary memory of a further example over its embeddings, {dtype}",
                growth / embeddings,
                goal=MEMORY_GOAL,
            )
        )
