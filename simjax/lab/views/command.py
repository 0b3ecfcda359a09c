"""The study of views: how well runs do whose second view of a sentence is made in other ways.

It repeats SimCSE's comparisons on a recipe, with seeds: augmentations of the words or embeddings
against dropout alone, dropout rates, temperatures. Runs are kept one by one in the output folder;
the same command goes on where it stopped. Keys of the recipe that the study leaves alone can be
given as `--dotted.key VALUE`.
"""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simjax.lab import command
from simjax.lab.sweep import command as sweep
from simjax.lab.views.arms import ARMS, SYNONYMS, Grid, check, run_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from simjax.lab.views.recipe import Plan
    from simjax.lab.views.study import Study

QUICK = Grid(
    arms=("dropout", "crop20", "delete20", "none", "dropout0.2", "temperature0.1"),
    seeds=(0, 1),
)
EXAMPLES, QUICK_EXAMPLES = 8_192, 1_024
"""Seen by every run."""
POINTS, QUICK_POINTS = 8, 2
"""Times that a run is evaluated beside its start, which costs as much as 200 examples."""
NAME = "views"
OPTIONS = ("config", "root", "arms", "seeds", "examples", "synonyms")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; overrides of the recipe arrive as `args.rest`."""
    sweep.add_arguments(
        parser,
        NAME,
        "simcse_wiki.yaml",
        quick="fewer arms, seeds, examples and evaluations",
    )
    parser.add_argument("--arms", nargs="+", metavar="ARM",
        help=f"what is compared, by default all: of {', '.join(ARMS)}",
    )  # fmt: skip
    seeds = "of each arm, by default 0 1 2, with --quick 0 1"
    sweep.add_amount(parser, seeds, (EXAMPLES, QUICK_EXAMPLES))
    parser.add_argument("--synonyms", type=Path, metavar="FILE",
        help="table of synonyms, a word and its synonyms on each line, with tabs between them: "
        "adds the arm that needs one",
    )  # fmt: skip


def _word(value: object) -> str:
    return value.name if isinstance(value, Path) else str(value)


def grid_of(args: argparse.Namespace) -> tuple[Grid, int]:
    """The runs that a command line asks for, and the examples of each.

    Raises:
        UsageError: They cannot be.
    """
    grid = QUICK if args.quick else Grid()
    if args.arms is not None:
        grid = dataclasses.replace(grid, arms=tuple(dict.fromkeys(args.arms)))
    if args.synonyms is not None and SYNONYMS not in grid.arms:
        grid = dataclasses.replace(grid, arms=(*grid.arms, SYNONYMS))
    if args.seeds is not None:
        grid = dataclasses.replace(grid, seeds=tuple(dict.fromkeys(args.seeds)))
    check(grid, args.synonyms)
    return grid, args.examples or (QUICK_EXAMPLES if args.quick else EXAMPLES)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Make the runs that are missing and write the report; as `simjax.lab.command.run`."""
    from simjax.lab.views import report
    from simjax.lab.views.study import Study

    def prepare(folder: Path) -> Callable[[Console], None]:
        grid, examples = grid_of(args)
        return partial(_measure, args, grid, _plan(args, grid, examples, folder))

    return sweep.run(args, NAME, OPTIONS, prepare=prepare, read=Study.read, report=report.write)


def _plan(args: argparse.Namespace, grid: Grid, examples: int, folder: Path) -> Plan:
    from simjax.lab.views import recipe

    path, overrides = sweep.recipe_of(args, recipe.RECIPE)
    synonyms = None if args.synonyms is None else args.synonyms.expanduser()
    points = QUICK_POINTS if args.quick else POINTS
    return recipe.plan(
        path, overrides, grid, folder, examples=examples, points=points, synonyms=synonyms
    )


def _measure(args: argparse.Namespace, grid: Grid, plan: Plan, console: Console) -> None:
    from simjax.lab.sweep import inputs, measuring
    from simjax.lab.views.study import Runner

    recipe = inputs.with_tokenizer(plan.recipe, plan.folder)
    plan = dataclasses.replace(plan, recipe=recipe)
    keys = list(run_keys(grid))
    study = _describe(args, grid, plan, inputs.digest(plan.config(keys[0])))
    measuring.measure(study, plan.folder, keys, plan.config, console, runner=Runner)


def _describe(args: argparse.Namespace, grid: Grid, plan: Plan, texts: str) -> Study:
    from simjax.lab.views.recipe import RECIPE
    from simjax.lab.views.study import TOLD_BY, Study

    said = command.command_line(args, NAME, OPTIONS, _word)
    recipe = RECIPE if args.config is None else args.config.name
    own = Path(__file__).parent
    return sweep.described(Study, said, recipe, plan, grid, texts, own=own, told_by=TOLD_BY)
