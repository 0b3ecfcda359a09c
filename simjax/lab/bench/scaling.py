"""What becomes of a training step on more devices: work and bytes of each, and time.

Strong scaling shares a batch out; weak scaling gives every device a batch of the same size, so that
the work of comparing all with all grows with the number of devices, and that of encoding does not.
Devices that a CPU pretends to have share its cores: work is then counted from the compiled step,
and nothing is timed. Several processes, such as `launch/local.py` starts, share the devices out.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from simjax.argument_types import positive
from simjax.errors import UsageError
from simjax.lab.bench import arguments
from simjax.processes import command_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--devices", type=positive, nargs="+", default=[1, 2, 4, 8], help="numbers of devices"
    )
    parser.add_argument(
        "--batch_size",
        type=positive,
        default=1024,
        help="pairs of the batch (strong), and of a batch on one device (weak)",
    )
    parser.add_argument(
        "--micro_batch", type=positive, default=64, help="pairs that a device encodes at a time"
    )
    parser.add_argument(
        "--keys",
        choices=("all_gather", "ring"),
        help="how devices see each other's keys; by default what their size suggests",
    )
    parser.add_argument("--steps", type=positive, default=5, help="timed, on accelerators")
    arguments.add_encoder(parser)
    arguments.add_dtype(parser)
    arguments.add_json(parser)
    command_line.add_process_arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Count or measure, print, and return the figures.

    Raises:
        UsageError: There are fewer devices, or sizes do not divide.
    """
    import jax

    from simjax.lab.bench import machine
    from simjax.processes.start import joined

    counts = sorted(set(args.devices))
    arguments.check_width(args)
    _check_sizes(args, counts[-1])
    machine.share_accelerator()
    with suppress(RuntimeError):  # devices are there already
        jax.config.update("jax_num_cpu_devices", -(-counts[-1] // (args.num_processes or 1)))
    with joined(command_line.process_config(args)):
        return _run(args, counts)


def _run(args: argparse.Namespace, counts: list[int]) -> dict[str, Any]:
    import jax

    from simjax.lab.bench import pair_runs, report

    places = {count: _devices(count) for count in counts}
    timed = jax.default_backend() != "cpu"
    settings = {
        "batch": f"{args.batch_size:,} pairs in micro-batches of {args.micro_batch:,}",
        "encoder": f"{args.layers} layers of width {args.width}",
        "keys": args.keys or "as their size suggests",
        "processes": jax.process_count(),
    }
    note = "" if timed else "devices share the cores of a CPU: work is counted, not timed"
    result = report.Report.begin("scaling", settings, note)
    with tempfile.TemporaryDirectory(prefix="simjax-bench-") as scratch, report.telling() as said:
        pair_runs.write_pairs(Path(scratch), args.batch_size * counts[-1])
        for dtype in arguments.dtypes(args):
            for kind in ("strong", "weak"):
                first: dict[str, Any] | None = None
                for count in counts:
                    name = f"{kind}, {count} devices, {dtype}"
                    said(name)
                    size = args.batch_size * (count if kind == "weak" else 1)
                    shape = pair_runs.Shape.of(args, size, dtype)
                    steps = args.steps if timed else 0
                    row = _figures(shape, Path(scratch), places[count], steps)
                    first = first or row
                    result.contenders[name] = row | _beside(row, first)
    if jax.process_index() > 0:
        return result.as_json()
    result.show(_columns())
    return result.write(args.json)


def _devices(count: int) -> list[Any]:
    """So many devices, as many of each process as of any other.

    Raises:
        UsageError: They are fewer, or do not divide by the processes.
    """
    import jax

    share, rest = divmod(count, jax.process_count())
    if rest:
        raise UsageError(f"--devices {count} does not divide by {jax.process_count()} processes")
    of_process: dict[int, list[Any]] = {}
    for device in jax.devices():
        of_process.setdefault(device.process_index, []).append(device)
    if share > min(map(len, of_process.values())):
        raise UsageError(f"--devices {count}: there are {len(jax.devices())}")
    return [device for _, own in sorted(of_process.items()) for device in own[:share]]


def _check_sizes(args: argparse.Namespace, most: int) -> None:
    share = args.batch_size // most
    if args.batch_size % most or share % args.micro_batch:
        raise UsageError(
            f"--batch_size {args.batch_size} over {most} devices are no whole micro-batches of "
            f"{args.micro_batch} (--micro_batch)"
        )
    if share == args.micro_batch:
        raise UsageError(
            f"--micro_batch {args.micro_batch} is all that one of {most} devices has of the batch, "
            "which it then encodes once and not twice; halve it"
        )


def _figures(shape: Any, scratch: Path, devices: list[Any], steps: int) -> dict[str, Any]:
    import jax

    from simjax.lab.bench import pair_runs
    from simjax.lab.bench.compiled_operations import product_operations
    from simjax.plan.collectives import bytes_sent

    run, count = pair_runs.make(shape, scratch, devices), len(devices)
    figures: dict[str, Any] = {"devices": count, "pairs": shape.batch_size}
    step: Any = run.step
    compiled = step.lower(run.abstract_state(), _batch(run)).compile()
    figures["sent_bytes"] = sum(bytes_sent(compiled, count).values()) if count > 1 else 0.0
    figures["sent"] = bytes_sent(compiled, count) if count > 1 else {}
    figures["temporary_bytes"] = int(compiled.memory_analysis().temp_size_in_bytes)
    if jax.default_backend() == "cpu":
        figures["operations"] = product_operations(compiled)
    if steps:
        # The first step warms up.
        measured = pair_runs.measure(run, steps + 1, lambda line: None)
        figures["seconds"] = measured["seconds"][1:]
        figures["pairs_per_second"] = shape.batch_size * steps / sum(figures["seconds"])
    return figures


ROWS = 12
"""Of a block, for each of a micro-batch's blocks alike: as many whatever texts there are."""


def _batch(run: Any) -> Any:
    """A batch without content, whose blocks have so many rows whatever its size."""
    import jax

    from simjax.train.memory import abstract_batch

    batch = abstract_batch(run.source, run.mesh)

    def resized(leaf: Any) -> Any:
        blocks, _, length = leaf.shape
        return jax.ShapeDtypeStruct((blocks, ROWS, length), leaf.dtype, sharding=leaf.sharding)

    old = batch.block
    block = dataclasses.replace(
        old, tokens=resized(old.tokens), positions=resized(old.positions), text=resized(old.text)
    )
    return dataclasses.replace(batch, block=block)


def _beside(row: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    """What a device does beside what it did on the fewest devices, and how near that is to ideal.

    `efficiency` is work per pair on the fewest devices over that here, and of speeds likewise: 1
    where n devices do n times as much.
    """
    found: dict[str, Any] = {}
    devices = row["devices"] / first["devices"]
    pairs = row["pairs"] / first["pairs"]
    if "operations" in row:
        ratio = row["operations"] / first["operations"]
        found |= {"operations_ratio": ratio, "efficiency": pairs / (devices * ratio)}
    if "pairs_per_second" in row:
        speed = row["pairs_per_second"] / first["pairs_per_second"]
        found["speed_efficiency"] = speed / devices
    return found


def _columns() -> list[Any]:
    from simjax.lab.bench.report import Column, seconds, size

    def share(value: float) -> str:
        return f"{value:.1%}"

    return [
        Column("pairs", "pairs", lambda x: f"{x:,}"),
        Column("operations", "of a device: products", lambda x: f"{x / 1e9:.2f} GFLOP"),
        Column("operations_ratio", "beside the first", lambda x: f"{x:.3f}"),
        Column("efficiency", "efficiency", share),
        Column("sent_bytes", "sends", size),
        Column("temporary_bytes", "temporary memory", size),
        Column("seconds", "step (middle half)", seconds),
        Column("pairs_per_second", "pairs/s", lambda x: f"{x:,.0f}"),
        Column("speed_efficiency", "efficiency in time", share),
    ]
