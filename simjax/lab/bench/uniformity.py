"""Time and memory of the exact uniformity of a set, beside PyTorch's products of the same pairs.

Memory is that of a process of its own, with the set in place.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

from simjax.argument_types import positive
from simjax.lab.bench import arguments

PEAK_GOAL = 1.0
"""GB of the whole process."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--size", type=positive, default=200_000, metavar="N", help="vectors")
    parser.add_argument("--width", type=positive, default=384, help="of a vector")
    parser.add_argument(
        "--rounds", type=positive, default=3, help="turns that each contender takes"
    )
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, print, and return the figures."""
    from simjax.lab.bench import contenders, machine, memory, peers, report
    from simjax.lab.bench.timing import interleave, paired_ratio

    machine.share_accelerator()
    size, width = args.size, args.width
    settings = {"vectors": size, "width": width, "rounds": args.rounds}
    result = report.Report.begin("uniformity", settings)
    torch = peers.find_torch(result.notes)
    names = [name for name in contenders.SETS if torch is not None or "PyTorch" not in name]
    x = contenders.vectors(size, width)
    made = {name: contenders.make(name, x, "float32", torch) for name in names}
    warm_up = contenders.vectors(min(size, 2 * contenders.CHUNK), width)
    with report.telling() as said:
        for name in names:
            contenders.make(name, warm_up, "float32", torch).run()
        values: dict[str, float] = {}
        runs = {name: _keeping(values, name, made[name].run) for name in names}
        times = interleave(runs, args.rounds, said=said)
        said(f"memory of {contenders.OUR_UNIFORMITY}")
        peak = memory.measure(contenders.OUR_UNIFORMITY, size, width, "float32")
    for name in names:
        result.contenders[name] = {"seconds": times[name]}
        if not math.isnan(values[name]):
            result.contenders[name]["uniformity"] = values[name]
    ours = contenders.OUR_UNIFORMITY
    result.contenders[ours] |= {
        "growth_bytes": peak.growth_bytes,
        "process_bytes": peak.process_bytes,
    }
    for peer in names[1:]:
        goal = report.Goal(1.0, "at most") if peer == contenders.TORCH_PRODUCTS else None
        ratio = paired_ratio(times[ours], times[peer])
        result.ratios.append(report.Ratio.of(f"time of {ours} over {peer}", ratio, goal))
    result.ratios.append(
        report.Ratio(
            "peak of the process, in GB",
            peak.process_bytes / 1e9,
            goal=report.Goal(PEAK_GOAL, "at most"),
        )
    )
    result.show(
        [
            report.Column("seconds", "time (middle half)", report.seconds),
            report.Column("growth_bytes", "peak growth", report.size),
            report.Column("process_bytes", "peak of the process", report.size),
        ]
    )
    return result.write(args.json)


def _keeping(values: dict[str, float], name: str, run: Any) -> Any:
    def kept() -> None:
        values[name] = run()

    return kept
