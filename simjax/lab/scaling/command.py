"""The batch-size study: quality, speed, memory and gradient noise over a grid of runs of a recipe.

Every run sees the same number of examples. Batch and negatives are varied apart. Runs are kept one
by one in the output folder; the same command goes on where it stopped. Keys of the recipe that the
study leaves alone can be given as `--dotted.key VALUE`.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simjax.errors import UsageError
from simjax.lab.bench.arguments import positive
from simjax.lab.scaling.grid import (
    LR_RULES,
    OBJECTIVES,
    Grid,
    RunKey,
    check,
    run_keys,
)
from simjax.remote import path_here

if TYPE_CHECKING:
    from rich.console import Console

    from simjax.lab.scaling.recipe import Plan
    from simjax.lab.scaling.study import Study

QUICK = Grid(batch_sizes=(128, 512), lr_rules=("constant", "sqrt"))
EXAMPLES, QUICK_EXAMPLES = 24_576, 6_144
"""Seen by every run."""
OUTPUT, QUICK_OUTPUT = Path("runs/scaling"), Path("runs/scaling-quick")
MEASURING = (
    *("config", "root", "batch_sizes", "negative_groups", "objectives", "lr_rules", "seeds"),
    *("examples", "base_batch", "micro_batch"),
)


def _group(text: str) -> int | None:
    """An argument type: a number of examples, or `batch`."""
    return None if text == "batch" else positive(text)


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; overrides of the recipe are taken by `split`."""
    parser.add_argument(
        "config",
        type=Path,
        nargs="?",
        metavar="CONFIG",
        help="recipe that runs start from, by default configs/scaling_small.yaml",
    )
    parser.add_argument(
        "--output",
        type=path_here,
        metavar="DIR",
        help=f"folder of runs and report, by default {OUTPUT}, with --quick {QUICK_OUTPUT}",
    )
    parser.add_argument(
        "--root",
        type=Path,
        metavar="DATA",
        help="folder of data sets (data.root), by default the variable SIMJAX_DATA",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a smaller grid and fewer examples, in minutes"
    )
    parser.add_argument(
        "--report_only",
        action="store_true",
        help="train nothing: write the report anew from the runs that are there",
    )
    grid = Grid()
    parser.add_argument("--batch_sizes", nargs="+", type=positive, metavar="B",
        help=f"examples of an update, by default {_words(grid.batch_sizes)}",
    )  # fmt: skip
    parser.add_argument("--negative_groups", nargs="+", type=_group, metavar="G",
        help="examples among which negatives are found, for batches that are larger; `batch` is "
        "all of it; by default 64 batch",
    )  # fmt: skip
    parser.add_argument("--objectives", nargs="+", metavar="LOSS",
        help=f"of {_words(OBJECTIVES)}, by default {_words(grid.objectives)}",
    )  # fmt: skip
    parser.add_argument("--lr_rules", nargs="+", metavar="RULE",
        help=f"learning rate over the batch: of {_words(LR_RULES)}, by default all",
    )  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=_seed, metavar="SEED",
        help=f"of each setting, by default {_words(grid.seeds)}",
    )  # fmt: skip
    parser.add_argument("--examples", type=positive, metavar="N",
        help=f"seen by every run, by default {EXAMPLES}, with --quick {QUICK_EXAMPLES}",
    )  # fmt: skip
    parser.add_argument("--base_batch", type=positive, metavar="B",
        help="batch at which the recipe's learning rate holds, by default the recipe's batch",
    )  # fmt: skip
    parser.add_argument("--micro_batch", type=positive, metavar="M",
        help="examples that a device encodes at a time in every run, by default the recipe's, or "
        "half of the smallest batch",
    )  # fmt: skip


def _words(values: Sequence[object]) -> str:
    return " ".join(map(str, values))


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part overrides of the recipe, whose names have a dot, from the other arguments.

    Raises:
        UsageError: An override without a value.
    """
    known: list[str] = []
    overrides: list[str] = []
    rest = iter(argv)
    for argument in rest:
        name, equals, _ = argument.partition("=")
        if not (name.startswith("--") and "." in name):
            known.append(argument)
        elif equals:
            overrides.append(argument)
        else:
            value = next(rest, None)
            if value is None:
                raise UsageError(f"{argument}: give it a value")
            overrides.append(f"{argument}={value}")
    return known, overrides


def grid_of(args: argparse.Namespace) -> tuple[Grid, int]:
    """The runs that a command line asks for, and the examples of each.

    Raises:
        UsageError: They cannot be.
    """
    grid = QUICK if args.quick else Grid()
    given = {
        field.name: tuple(dict.fromkeys(values))
        for field in dataclasses.fields(Grid)
        if (values := getattr(args, field.name)) is not None
    }
    grid = dataclasses.replace(grid, **given)
    if args.negative_groups is None:
        # Of what nobody asked for, what goes with the batches.
        batches = grid.batch_sizes
        groups = tuple(
            group
            for group in grid.negative_groups
            if group is None
            or (group < max(batches) and all(b <= group or b % group == 0 for b in batches))
        )
        grid = dataclasses.replace(grid, negative_groups=groups)
    examples = args.examples or (QUICK_EXAMPLES if args.quick else EXAMPLES)
    check(grid, examples)
    return grid, examples


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Make the runs that are missing and write the report.

    Returns:
        `report`, the path of the report; or `stopped`, the signal that ended the study early.
    """
    from rich.console import Console

    from simjax.lab.scaling import report
    from simjax.lab.scaling import study as studies
    from simjax.train.folder import locked

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    folder = args.output or (QUICK_OUTPUT if args.quick else OUTPUT)
    folder = folder.expanduser()
    if args.report_only:
        for name in MEASURING:
            if getattr(args, name) is not None:
                option = "CONFIG" if name == "config" else f"--{name}"
                raise UsageError(f"--report_only: trains nothing; leave {option} out")
        if args.rest:
            raise UsageError(f"--report_only: trains nothing; leave {args.rest[0]} out")
    else:
        grid, examples = grid_of(args)
        plan = _plan(args, grid, examples, folder)
        studies.open_folder(folder)
        with locked(folder):
            stopped = _measure(args, grid, plan, folder, console)
        if stopped is not None:
            return {"stopped": stopped}
    path, lines = report.write(folder, studies.Study.read(folder))
    for line in lines:
        console.print(line, markup=False)
    console.print(f"The report is {path}; its tables are beside it as CSV, its plots as PNG.")
    return {"report": str(path)}


def _plan(args: argparse.Namespace, grid: Grid, examples: int, folder: Path) -> Plan:
    from simjax.lab.bench import machine

    machine.share_accelerator()

    from simjax.lab.scaling import recipe

    root = [] if args.root is None else [f"--data.root={args.root.expanduser()}"]
    return recipe.plan(
        args.config or recipe.find(),
        [*root, *args.rest],
        grid,
        folder,
        examples=examples,
        base_batch=args.base_batch,
        micro_batch=args.micro_batch,
    )


def _measure(
    args: argparse.Namespace, grid: Grid, plan: Plan, folder: Path, console: Console
) -> str | None:
    """Make the runs that are missing; returns the signal that ended it early."""
    from simjax.lab.bench.report import telling
    from simjax.lab.scaling import inputs
    from simjax.lab.scaling.runs import Runner, Stopped
    from simjax.train.signals import StopRequest

    plan = inputs.with_tokenizer(plan)
    study = _describe(args, grid, plan, inputs.digest(plan, grid))
    study.write(folder)
    records = study.records(folder)
    records.cut_tail()
    runner = Runner(plan)
    for record in records:
        runner.forget(RunKey(**record.key))
    keys = list(run_keys(grid, plan.base_batch))
    missing = [key for key in keys if dataclasses.asdict(key) not in records]
    there = len(keys) - len(missing)
    console.print(f"{len(keys):,} runs, of which {there:,} are there already.")
    began = time.monotonic()
    name = None
    with StopRequest() as stop, telling() as said:
        tell = said if console.is_terminal else console.print
        for number, key in enumerate(missing):
            if stop.requested:
                break
            left = (time.monotonic() - began) / max(1, number) * (len(missing) - number)
            about = f", about {max(1, round(left / 60))} min left" if number else ""
            tell(f"{there + number + 1:,} of {len(keys):,}{about}: {key.setting}, seed {key.seed}")
            try:
                values = runner(key)
            except Stopped as stopped:
                name = str(stopped)
                break
            records.append(dataclasses.asdict(key), values)
            runner.forget(key)
        else:
            return None
        name = name or stop.name or "stopped"
    console.print(f"{name}: {len(records):,} runs are kept; the same command goes on from there")
    return name


def _describe(args: argparse.Namespace, grid: Grid, plan: Plan, texts: str) -> Study:
    from simjax.lab.bench import machine
    from simjax.lab.scaling.study import Study, identity

    told = machine.describe()
    where = {name: told[name] for name in ("device", "processor", "cores", "Python", "jax")}
    busy = machine.crowded()
    return Study(
        commands=[command_line(args)],
        machine=where,
        recipe=(args.config or recipe_name()).name,
        told=plan.told(),
        metric=str(plan.recipe.evaluation.metric),
        grids=[dataclasses.asdict(grid)],
        identity=identity(plan.told(), texts, where),
        busy=[f"Speeds are doubtful: {busy}."] if busy else [],
    )


def recipe_name() -> Path:
    """The recipe that is used where none is given."""
    from simjax.lab.scaling.recipe import RECIPE

    return Path("configs") / RECIPE


def command_line(args: argparse.Namespace) -> str:
    """The command as anybody can repeat it: folders of this machine are left out."""
    parts = ["simjax lab scaling"]
    if args.config is not None:
        beside = "configs/" if args.config.parent.name == "configs" else ""
        parts.append(f"{beside}{args.config.name}")
    if args.quick:
        parts.append("--quick")
    if args.root is not None:
        parts.append("--root DATA")
    for name in MEASURING[2:]:
        given = getattr(args, name)
        if given is not None:
            words = given if isinstance(given, list) else [given]
            parts.append(f"--{name} {_words(['batch' if x is None else x for x in words])}")
    for override in args.rest:
        key, _, value = override.partition("=")
        # A path below this machine's folders says nothing to others.
        parts.append(f"{key} {Path(value).name if value.startswith(('/', '~', '.')) else value}")
    return " ".join(parts)
