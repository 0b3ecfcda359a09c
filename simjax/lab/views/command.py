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
from simjax.lab.bench.arguments import positive
from simjax.lab.views.arms import ARMS, SYNONYMS, Grid, check, run_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from simjax.lab.views.recipe import Plan
    from simjax.lab.views.study import Study

QUICK = Grid(
    arms=(
        *("dropout", "crop20", "delete20", "delete1_alone", "mask15", "repeat", "shuffle"),
        *("feature_cutoff", "none", "shared", "dropout0.2", "temperature0.01", "temperature0.1"),
    ),
    seeds=(0, 1),
)
EXAMPLES, QUICK_EXAMPLES = 32_768, 4_096
"""Seen by every run."""
NAME = "views"
OPTIONS = ("config", "root", "arms", "seeds", "examples", "synonyms")


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; overrides of the recipe arrive as `args.rest`."""
    parser.add_argument(
        "config",
        type=Path,
        nargs="?",
        metavar="CONFIG",
        help="recipe that runs start from, by default configs/simcse_views_small.yaml",
    )
    command.add_arguments(
        parser,
        NAME,
        root="folder of data sets (data.root), by default the variable SIMJAX_DATA",
        quick="fewer arms, seeds and examples, in minutes",
    )
    parser.add_argument("--arms", nargs="+", metavar="ARM",
        help=f"what is compared, by default all: of {', '.join(ARMS)}",
    )  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=_seed, metavar="SEED",
        help="of each arm, by default 0 1 2, with --quick 0 1",
    )  # fmt: skip
    parser.add_argument("--examples", type=positive, metavar="N",
        help=f"seen by every run, by default {EXAMPLES}, with --quick {QUICK_EXAMPLES}",
    )  # fmt: skip
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
    elif args.synonyms is not None:
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

    # A tokenizer is learned before the study can be described.
    before = ("tokenizer", "tokenizer.partial")
    return command.run(
        args, NAME, OPTIONS, prepare=prepare, read=Study.read, report=report.write, before=before
    )


def _plan(args: argparse.Namespace, grid: Grid, examples: int, folder: Path) -> Plan:
    from simjax.lab.bench import machine

    machine.share_accelerator()

    from simjax.lab.sweep.recipe import find
    from simjax.lab.views import recipe

    root = [] if args.root is None else [f"--data.root={args.root.expanduser()}"]
    path = args.config or find(recipe.RECIPE)
    overrides = [*root, *args.rest]
    synonyms = None if args.synonyms is None else args.synonyms.expanduser()
    return recipe.plan(path, overrides, grid, folder, examples=examples, synonyms=synonyms)


def _measure(args: argparse.Namespace, grid: Grid, plan: Plan, console: Console) -> None:
    from simjax.lab.sweep import inputs, measuring
    from simjax.lab.views.study import Runner

    recipe = inputs.with_tokenizer(plan.recipe, plan.folder)
    plan = dataclasses.replace(plan, recipe=recipe)
    keys = list(run_keys(grid))
    study = _describe(args, grid, plan, inputs.digest(plan.config(keys[0])))
    measuring.measure(study, plan.folder, keys, plan.config, console, runner=Runner)


def _describe(args: argparse.Namespace, grid: Grid, plan: Plan, texts: str) -> Study:
    from simjax.lab import folder
    from simjax.lab.sweep.study import busy, identity
    from simjax.lab.views.recipe import RECIPE
    from simjax.lab.views.study import TOLD_BY, Study

    told, where = plan.told(), folder.where()
    return Study(
        commands=[command.command_line(args, NAME, OPTIONS, _word)],
        machine=where,
        recipe=RECIPE if args.config is None else args.config.name,
        told=told,
        metric=str(plan.recipe.evaluation.metric),
        grids=[dataclasses.asdict(grid)],
        identity=identity(told, texts, where, Path(__file__).parent, TOLD_BY),
        busy=busy(),
    )
