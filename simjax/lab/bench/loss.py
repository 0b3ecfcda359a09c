"""Time and memory of the loss, value and gradient, beside dense PyTorch and dense JAX.

Beside it the operator alone: what columns and further scales cost over the rows of one scale.

Times are taken in turns in one process. Memory is taken in one process per contender and size: the
peak during one call over what was in use before it, with the inputs in place.
"""

from __future__ import annotations

import argparse
import math
import statistics
from typing import TYPE_CHECKING, Any

from simjax.argument_types import positive
from simjax.lab.bench import arguments

if TYPE_CHECKING:
    from collections.abc import Callable

    from simjax.lab.bench.contenders import Contender
    from simjax.lab.bench.memory import Peak
    from simjax.lab.bench.report import Report

SIZES = (2048, 8192, 16384)
GOAL_SIZE = 8192
"""The size that the goals speak of."""
PEAK_SIZE = 65_536
"""From here on an accelerator has enough to do for its peak to be a goal."""
LARGE = 131_072
LARGE_GOAL = 3e9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--sizes", nargs="+", type=positive, default=list(SIZES), metavar="B", help="pairs"
    )
    parser.add_argument("--width", type=positive, default=384, help="of an embedding")
    parser.add_argument(
        "--rounds", type=positive, default=7, help="turns that each contender takes"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the operands of the products",
    )
    parser.add_argument(
        "--large",
        action="store_true",
        help=f"also run simjax alone at {LARGE:,} pairs, which takes minutes on a CPU",
    )
    parser.add_argument(
        "--no_memory", action="store_true", help="leave out memory, which starts many processes"
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="also torch.compile, tokamax and siglip-kernel where installed, and what share of "
        "the peak of the matrix units each reaches; meant for accelerators",
    )
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, print, and return the figures."""
    from simjax.lab.bench import contenders, machine, peers, report

    machine.share_accelerator()
    sizes = sorted(set(args.sizes))
    settings = {"pairs": sizes, "width": args.width, "dtype": args.dtype, "rounds": args.rounds}
    result = report.Report.begin("loss", settings)
    torch = peers.find_torch(result.notes)
    names = [name for name in contenders.NAMES if torch is not None or "PyTorch" not in name]
    with report.telling() as said:
        for size in sizes:
            _times(result, args, size, names, torch, said)
            _operator_times(result, args, size, said)
            if args.peers:
                _peer_times(result, args, size, torch, said)
            if not args.no_memory:
                for name in (name for name in names if _raced(result, name, size)):
                    said(f"memory of {name} at {size:,}")
                    _memory(result, args, name, size)
        if args.large:
            said(f"{contenders.OURS} at {LARGE:,}")
            peak = _memory(result, args, contenders.OURS, LARGE)
            goal = report.Goal(LARGE_GOAL / 1e9, "at most")
            name = f"peak of the process at {LARGE:,}, in GB"
            result.ratios.append(report.Ratio(name, peak.process_bytes / 1e9, goal=goal))
    if not args.no_memory:
        _compare_memory(result, sizes)
    result.show(
        [
            report.Column("seconds", "time (middle half)", report.seconds),
            report.Column("growth_bytes", "peak growth", report.size),
            report.Column("temporary_bytes", "XLA temporary", report.size),
            report.Column("process_bytes", "peak of the process", report.size),
        ]
    )
    return result.write(args.json)


def _row(name: str, size: int) -> str:
    return f"{name}, {size:,}"


def _raced(result: Report, name: str, size: int) -> bool:
    """Whether a contender had the memory for so many pairs."""
    return _row(name, size) in result.contenders


def _race(
    result: Report,
    args: argparse.Namespace,
    size: int,
    made: dict[str, Contender],
    said: Callable[[str], None],
) -> dict[str, list[float]]:
    """Seconds of contenders that take turns; each is told of once, with its first race."""
    from simjax.lab.bench import machine
    from simjax.lab.bench.timing import interleave

    losses: dict[str, float] = {}
    for name, contender in list(made.items()):
        try:
            losses[name] = contender.run()
        except Exception as error:
            if not machine.out_of_memory(error):
                raise
            result.notes.append(f"{_row(name, size)} is left out: it needs more memory")
            del made[name]
    runs = {name: contender.run for name, contender in made.items()}
    times = interleave(runs, args.rounds, said=lambda line: said(f"{size:,} pairs, {line}"))
    for name, contender in made.items():
        row = {"seconds": times[name], "loss": losses[name]}
        if contender.temporary_bytes is not None:
            row["temporary_bytes"] = contender.temporary_bytes
        result.contenders.setdefault(_row(name, size), row)
    return times


def _times(
    result: Report,
    args: argparse.Namespace,
    size: int,
    names: list[str],
    torch: Any,
    said: Callable[[str], None],
) -> None:
    from simjax.lab.bench import contenders
    from simjax.lab.bench.report import Goal, Ratio
    from simjax.lab.bench.timing import paired_ratio

    said(f"preparing {size:,} pairs")
    x = contenders.embeddings(size, args.width)
    made = {name: contenders.make(name, x, args.dtype, torch) for name in names}
    times = _race(result, args, size, made, said)
    for name in (contenders.OURS, contenders.OURS_SYMMETRIC):
        for peer in (contenders.DENSE_TORCH, contenders.DENSE_JAX):
            wanted = size == GOAL_SIZE and peer == contenders.DENSE_TORCH
            peer = peer if name == contenders.OURS else f"{peer} symmetric"
            if peer not in times:
                continue
            goal = Goal(0.65, "at most") if wanted else None
            ratio = paired_ratio(times[name], times[peer])
            result.ratios.append(Ratio.of(f"time of {name} over {peer}, {size:,}", ratio, goal))
    # Four products over three, as `simjax.lab.bench.reductions` tells.
    ratio = paired_ratio(times[contenders.OURS_SYMMETRIC], times[contenders.OURS])
    both = f"time of {contenders.OURS_SYMMETRIC} over {contenders.OURS}, {size:,}"
    result.ratios.append(Ratio.of(both, ratio))


def _operator_times(
    result: Report, args: argparse.Namespace, size: int, said: Callable[[str], None]
) -> None:
    from simjax.lab.bench import contenders, reductions
    from simjax.lab.bench.report import Ratio
    from simjax.lab.bench.timing import paired_ratio

    x = contenders.unit_embeddings(size, args.width)
    made = {name: contenders.make_reduction(name, x, args.dtype) for name in reductions.NAMES}
    times = _race(result, args, size, made, said)
    for name, goal in reductions.GOALS.items():
        ratio = paired_ratio(times[name], times[reductions.ROWS])
        told = f"time of {name} over {reductions.ROWS}, {size:,}"
        result.ratios.append(Ratio.of(told, ratio, goal if size == GOAL_SIZE else None))


def _peer_times(
    result: Report,
    args: argparse.Namespace,
    size: int,
    torch: Any,
    said: Callable[[str], None],
) -> None:
    from simjax.lab.bench import accelerated, contenders
    from simjax.lab.bench.report import Goal, Ratio
    from simjax.lab.bench.timing import paired_ratio

    x = contenders.embeddings(size, args.width)
    made = {contenders.OURS: contenders.make(contenders.OURS, x, args.dtype, torch)}
    made |= accelerated.make(x, args.dtype, torch, result.notes)
    times = _race(result, args, size, made, said)
    peak = accelerated.peak(args.dtype)
    for name in times:
        needed = accelerated.operations(name, size, args.width) / peak
        goal = Goal(0.6, "at least") if name == contenders.OURS and size >= PEAK_SIZE else None
        shares = [needed / seconds for seconds in times[name]]
        told = f"share of the peak of {peak / 1e12:.3g} TFLOP/s that {name} reaches, {size:,}"
        result.ratios.append(Ratio(told, statistics.median(shares), goal=goal))
    for (ours, peer), bound in accelerated.RIVALS.items():
        if peer in times:
            ratio = paired_ratio(times[ours], times[peer])
            goal = Goal(bound, "at most") if size >= PEAK_SIZE else None
            result.ratios.append(Ratio.of(f"time of {ours} over {peer}, {size:,}", ratio, goal))


def _memory(result: Report, args: argparse.Namespace, name: str, size: int) -> Peak:
    from simjax.lab.bench import memory

    peak = memory.measure(name, size, args.width, args.dtype)
    row = result.contenders.setdefault(_row(name, size), {"seconds": [peak.seconds]})
    row |= {"growth_bytes": peak.growth_bytes, "process_bytes": peak.process_bytes}
    row.setdefault("loss", peak.loss)
    if peak.temporary_bytes is not None:
        row["temporary_bytes"] = peak.temporary_bytes
    return peak


def _compare_memory(result: Report, sizes: list[int]) -> None:
    from simjax.lab.bench import contenders
    from simjax.lab.bench.report import Goal, Ratio

    def growth(name: str, size: int) -> float:
        return max(float(result.contenders[_row(name, size)]["growth_bytes"]), 1.0)

    for ours in (contenders.OURS, contenders.OURS_SYMMETRIC):
        for peer in (contenders.DENSE_TORCH, contenders.DENSE_JAX):
            peer = peer if ours == contenders.OURS else f"{peer} symmetric"
            for size in sizes:
                if _raced(result, peer, size):
                    share = growth(ours, size) / growth(peer, size)
                    goal = Goal(0.1, "at most") if size == GOAL_SIZE else None
                    name = f"memory of {ours} over {peer}, {size:,}"
                    result.ratios.append(Ratio(name, share, goal=goal))
        if len(sizes) > 1:
            small, large = sizes[-2:]
            exponent = math.log(growth(ours, large) / growth(ours, small)) / math.log(large / small)
            result.ratios.append(
                Ratio(
                    f"exponent of the memory of {ours}, {small:,} to {large:,}",
                    exponent,
                    goal=Goal(1.1, "at most"),
                )
            )
