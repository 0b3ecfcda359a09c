"""Training steps beside sentence-transformers', or with `--cache` a large batch beside a small one.

Both sides get the same batches of the same examples as strings, the same model with dropout on,
InfoNCE with hard negatives at scale 20, clipping and AdamW, and do everything from tokenisation
to the update. sentence-transformers pads a batch to its longest text and computes in bfloat16 by
PyTorch's autocast; simjax packs short texts into rows.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simjax.argument_types import positive
from simjax.lab.bench import arguments

if TYPE_CHECKING:
    from simjax.lab.bench.report import Report
    from simjax.lab.bench.texts import Origin
    from simjax.lab.bench.trainer import Trainer
    from simjax.train.config import Dtype

GOALS = {"float32": 3.0, "bfloat16": 2.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    arguments.add_model(parser)
    arguments.add_dtype(parser)
    parser.add_argument("--batches", type=positive, default=8, help="batches that are timed")
    parser.add_argument("--batch_size", type=positive, default=256, help="examples of a batch")
    parser.add_argument("--block_size", type=positive, default=64, help="examples packed together")
    parser.add_argument("--row_length", type=positive, default=128, help="tokens of a packed row")
    parser.add_argument("--max_length", type=positive, default=128, help="tokens of a text")
    parser.add_argument(
        "--no_peer", action="store_true", help="measure simjax alone, without ratios"
    )
    parser.add_argument(
        "--cache",
        action="store_true",
        help="instead compare a batch of --cache_batch_size in micro-batches of --batch_size "
        "(the gradient cache) with batches of --batch_size",
    )
    parser.add_argument(
        "--cache_batch_size", type=positive, default=4096, help="the batch of --cache"
    )
    parser.add_argument(
        "--rounds", type=positive, default=1, help="turns that each side of --cache takes"
    )
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, print, and return the figures."""
    from simjax.lab.bench import machine

    machine.share_accelerator()
    with tempfile.TemporaryDirectory(prefix="simjax-bench-") as scratch:
        if args.cache:
            from simjax.lab.bench import cache

            return cache.run(args, Path(scratch))
        return _beside_peer(args, Path(scratch))


def _beside_peer(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    from simjax.lab.bench import report, texts

    origin = texts.triples(args.data_root)
    settings = {
        "model": arguments.model_name(args),
        "batches": f"{args.batches} of {args.batch_size} {origin.name}",
        "block_size": args.block_size,
        "row_length": args.row_length,
        "max_length": args.max_length,
    }
    result = report.Report.begin("train", settings, origin.note)
    with report.telling() as said:
        ours, peers = _sides(args, origin, result, scratch)
        dtypes = list(ours)
        for dtype in dtypes:
            said(f"compiling and warming up: {dtype}")
            for number in range(args.batches):
                ours[dtype].compile(number)
            ours[dtype].step(args.batches)
            if dtype in peers:
                peers[dtype].step(ours[dtype].texts(args.batches)[:32])
        for number in range(args.batches):
            order = dtypes if number % 2 == 0 else dtypes[::-1]
            for dtype in order:
                said(f"batch {number + 1} of {args.batches}: {dtype}")
                turn = (_our_turn, _peer_turn) if number % 2 == 0 else (_peer_turn, _our_turn)
                for take in turn:
                    take(result, dtype, number, ours, peers)
    _compare(result, ours, args.batches)
    result.show(_columns())
    return result.write(args.json)


def _sides(
    args: argparse.Namespace, origin: Origin, result: Report, scratch: Path
) -> tuple[dict[Dtype, Trainer], dict[Dtype, Any]]:
    from simjax.lab.bench.peers import PeerTrainer, StepOptions, find_sentence_transformers
    from simjax.lab.bench.trainer import Shape, Trainer, run_config

    folder = arguments.model_folder(args)
    options = StepOptions(args.max_length)
    shape = Shape(args.batch_size, args.block_size, args.row_length)
    torch = None if args.no_peer else find_sentence_transformers(result.notes)
    ours, peers = {}, {}
    for dtype in arguments.dtypes(args):
        config = run_config(folder, origin, dtype, shape, options, scratch)
        ours[dtype] = Trainer(config, origin)
        if torch is not None:
            peers[dtype] = PeerTrainer(torch, folder, dtype, options)
    return ours, peers


def _row(result: Report, name: str) -> dict[str, Any]:
    empty = {"seconds": [], "loss": [], "computed_tokens": 0}
    return result.contenders.setdefault(name, empty)


def _our_turn(
    result: Report, dtype: Dtype, number: int, ours: dict[Dtype, Trainer], peers: dict[Dtype, Any]
) -> None:
    from simjax.lab.bench.trainer import computed_tokens

    row = _row(result, f"simjax {dtype}")
    loss, phases = ours[dtype].step(number)
    packed = ours[dtype].source[number]
    row["seconds"].append(phases.total)
    row["loss"].append(loss)
    row["computed_tokens"] += computed_tokens(packed)
    row["real_tokens"] = row.get("real_tokens", 0) + packed.tokens
    for part in ("tokenise", "assemble", "update"):
        key = f"{part}_seconds"
        row[key] = row.get(key, 0.0) + getattr(phases, part)


def _peer_turn(
    result: Report, dtype: Dtype, number: int, ours: dict[Dtype, Trainer], peers: dict[Dtype, Any]
) -> None:
    if dtype not in peers:
        return
    row = _row(result, f"sentence-transformers {dtype}")
    batch = ours[dtype].texts(number)
    began = time.perf_counter()
    row["loss"].append(peers[dtype].step(batch))
    row["seconds"].append(time.perf_counter() - began)
    row["computed_tokens"] += peers[dtype].tokens


def _compare(result: Report, ours: dict[Dtype, Trainer], batches: int) -> None:
    from simjax.lab.bench.report import Goal, Ratio
    from simjax.lab.bench.timing import total_ratio

    for row in result.contenders.values():
        row["total_seconds"] = sum(row["seconds"])
        row["mean_loss"] = sum(row["loss"]) / len(row["loss"])
        if "real_tokens" in row:
            row["fill"] = row["real_tokens"] / row["computed_tokens"]
    for dtype in ours:
        mine = result.contenders[f"simjax {dtype}"]
        peer = result.contenders.get(f"sentence-transformers {dtype}")
        if peer is not None:
            result.ratios.append(
                Ratio.of(
                    f"speed of simjax {dtype} over sentence-transformers {dtype}",
                    total_ratio(peer["seconds"], mine["seconds"]),
                    Goal(GOALS[dtype], "at least"),
                )
            )


def _columns() -> list[Any]:
    from simjax.lab.bench.report import Column, seconds

    def whole(count: float) -> str:
        return f"{count:,.0f}"

    def total(value: float) -> str:
        return f"{value:.2f} s"

    return [
        Column("seconds", "step (middle half)", seconds),
        Column("total_seconds", "all steps", total),
        Column("tokenise_seconds", "of it tokenising", total),
        Column("assemble_seconds", "packing", total),
        Column("computed_tokens", "tokens computed", whole),
        Column("fill", "of them real", lambda x: f"{x:.1%}"),
        Column("mean_loss", "mean loss", lambda x: f"{x:.4f}"),
    ]
