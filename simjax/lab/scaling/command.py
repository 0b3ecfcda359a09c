"""The batch-size study: quality, speed, memory and gradient noise over a grid of runs of a recipe.

Every run sees the same number of examples. Batch and negatives are varied apart. Runs are kept one
by one in the output folder; the same command goes on where it stopped. Keys of the recipe that the
study leaves alone can be given as `--dotted.key VALUE`.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simjax.argument_types import positive
from simjax.lab import command
from simjax.lab.scaling.grid import LR_RULES, OBJECTIVES, Grid, check, run_keys
from simjax.lab.sweep import command as sweep

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from simjax.lab.scaling.recipe import Plan
    from simjax.lab.scaling.study import Study

QUICK = Grid(batch_sizes=(128, 512), lr_rules=("constant", "sqrt"))
EXAMPLES, QUICK_EXAMPLES = 24_576, 6_144
"""Seen by every run."""
NAME = "scaling"
OPTIONS = (
    *("config", "root", "batch_sizes", "negative_groups", "objectives", "lr_rules", "seeds"),
    *("examples", "base_batch", "micro_batch"),
)


def _group(text: str) -> int | None:
    """An argument type: a number of examples, or `batch`."""
    return None if text == "batch" else positive(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; overrides of the recipe arrive as `args.rest`."""
    sweep.add_arguments(
        parser,
        NAME,
        "scaling_small.yaml",
        quick="a smaller grid and fewer examples, in minutes",
    )
    grid = Grid()
    parser.add_argument("--batch_sizes", nargs="+", type=positive, metavar="B",
        help=f"examples of an update, by default {_words(grid.batch_sizes)}",
    )  # fmt: skip
    parser.add_argument("--negative_groups", nargs="+", type=_group, metavar="G",
        help="examples among which negatives are found, for batches that are larger; `batch` is "
        "all of it; by default 64, or what a device has of the smallest batch if that is less, and "
        "batch",
    )  # fmt: skip
    parser.add_argument("--objectives", nargs="+", metavar="LOSS",
        help=f"of {_words(OBJECTIVES)}, by default {_words(grid.objectives)}",
    )  # fmt: skip
    parser.add_argument("--lr_rules", nargs="+", metavar="RULE",
        help=f"learning rate over the batch: of {_words(LR_RULES)}, by default all",
    )  # fmt: skip
    seeds = f"of each setting, by default {_words(grid.seeds)}"
    sweep.add_amount(parser, seeds, (EXAMPLES, QUICK_EXAMPLES))
    parser.add_argument("--base_batch", type=positive, metavar="B",
        help="batch at which the recipe's learning rate holds, by default the recipe's batch",
    )  # fmt: skip
    parser.add_argument("--micro_batch", type=positive, metavar="M",
        help="examples that a device encodes at a time in every run, by default the recipe's, or "
        "half of the smallest batch, and no more than a device has of it",
    )  # fmt: skip


def _words(values: Sequence[object]) -> str:
    return " ".join(map(str, values))


def _word(value: object) -> str:
    return "batch" if value is None else str(value)


def grid_of(args: argparse.Namespace, parts: int = 1) -> tuple[Grid, int]:
    """The runs that a command line asks for, and the examples of each.

    Args:
        args: The command line.
        parts: Devices that a batch is split over.

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
        groups = _groups(grid.batch_sizes, grid.negative_groups, parts)
        grid = dataclasses.replace(grid, negative_groups=groups)
    examples = args.examples or (QUICK_EXAMPLES if args.quick else EXAMPLES)
    check(grid, examples)
    return grid, examples


def _groups(
    batches: Sequence[int], groups: Sequence[int | None], parts: int
) -> tuple[int | None, ...]:
    """Of groups that nobody asked for, what goes with the batches.

    A group lies on one device, so it is made as small as what a device has of the smallest batch.
    """
    share = max(1, min(batches) // parts)
    if parts > 1:
        groups = [None if group is None else min(group, share) for group in groups]
    return tuple(
        group
        for group in groups
        if group is None
        or (
            1 < group < max(batches)
            and all(batch <= group or batch // parts % group == 0 for batch in batches)
        )
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Make the runs that are missing and write the report; as `simjax.lab.command.run`."""
    from simjax.lab.scaling import recipe, report
    from simjax.lab.scaling.study import Study

    def prepare(folder: Path) -> Callable[[Console], None]:
        found = recipe.read(*sweep.recipe_of(args, recipe.RECIPE))
        grid, examples = grid_of(args, recipe.batch_parts(found))
        plan = recipe.plan(
            found,
            grid,
            folder,
            examples=examples,
            base_batch=args.base_batch,
            micro_batch=args.micro_batch,
        )
        return partial(_measure, args, grid, plan)

    return sweep.run(args, NAME, OPTIONS, prepare=prepare, read=Study.read, report=report.write)


def _measure(args: argparse.Namespace, grid: Grid, plan: Plan, console: Console) -> None:
    from simjax.lab.sweep import inputs, measuring

    recipe = inputs.with_tokenizer(plan.recipe, plan.folder)
    plan = dataclasses.replace(plan, recipe=recipe)
    keys = list(run_keys(grid, plan.base_batch))
    texts = inputs.digest(plan.config(max(keys, key=lambda key: key.batch)))
    study = _describe(args, grid, plan, texts)
    measuring.measure(study, plan.folder, keys, plan.config, console)


def _describe(args: argparse.Namespace, grid: Grid, plan: Plan, texts: str) -> Study:
    from simjax.lab.scaling.recipe import RECIPE
    from simjax.lab.scaling.study import TOLD_BY, Study

    said = command.command_line(args, NAME, OPTIONS, _word)
    recipe = RECIPE if args.config is None else args.config.name
    own = Path(__file__).parent
    return sweep.described(Study, said, recipe, plan, grid, texts, own=own, told_by=TOLD_BY)
