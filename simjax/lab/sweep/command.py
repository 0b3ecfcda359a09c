"""What the commands of sweeps have in common: recipe, seeds, examples, a study's description."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from simjax.argument_types import positive
from simjax.lab import command

if TYPE_CHECKING:
    from rich.console import Console

    from simjax.lab.sweep.study import Study
    from simjax.train.config import RunConfig

StudyT = TypeVar("StudyT", bound="Study")


class Plan(Protocol):
    """What all runs of a sweep have in common."""

    @property
    def recipe(self) -> RunConfig:
        """The configuration that runs start from."""

    def told(self) -> dict[str, Any]:
        """What decides the result of a run beside its key."""


def add_arguments(parser: argparse.ArgumentParser, name: str, recipe: str, *, quick: str) -> None:
    """Declare CONFIG and the options of every study; overrides arrive as `args.rest`.

    Args:
        parser: Of the study.
        name: Of the study.
        recipe: That runs start from where none is given.
        quick: What `--quick` does.
    """
    parser.add_argument(
        "config",
        type=Path,
        nargs="?",
        metavar="CONFIG",
        help=f"recipe that runs start from, by default configs/{recipe}",
    )
    command.add_arguments(
        parser,
        name,
        root="folder of data sets (data.root), by default the variable SIMJAX_DATA",
        quick=quick,
    )


def add_amount(parser: argparse.ArgumentParser, seeds: str, examples: tuple[int, int]) -> None:
    """Declare `--seeds` and `--examples`.

    Args:
        parser: Of the study.
        seeds: What they are of, and which by default.
        examples: By default, and with `--quick`.
    """
    parser.add_argument("--seeds", nargs="+", type=_seed, metavar="SEED", help=seeds)
    parser.add_argument("--examples", type=positive, metavar="N",
        help=f"seen by every run, by default {examples[0]}, with --quick {examples[1]}",
    )  # fmt: skip


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def run(
    args: argparse.Namespace,
    name: str,
    options: Sequence[str],
    *,
    prepare: Callable[[Path], Callable[[Console], None]],
    read: Callable[[Path], StudyT],
    report: Callable[[Path, StudyT], tuple[Path, list[str]]],
) -> dict[str, Any]:
    """As `simjax.lab.command.run`, of a study whose tokenizer is learned before it is described."""
    before = ("tokenizer", "tokenizer.partial")
    return command.run(
        args, name, options, prepare=prepare, read=read, report=report, before=before
    )


def recipe_of(args: argparse.Namespace, default: str) -> tuple[Path, list[str]]:
    """The recipe that a command line asks for, and the keys that it changes."""
    from simjax.lab.bench import machine

    machine.share_accelerator()

    from simjax.lab.sweep.recipe import find

    root = [] if args.root is None else [f"--data.root={args.root.expanduser()}"]
    return args.config or find(default), [*root, *args.rest]


def described(
    kind: type[StudyT],
    said: str,
    recipe: str,
    plan: Plan,
    grid: Any,
    texts: str,
    *,
    own: Path,
    told_by: Collection[str],
) -> StudyT:
    """A study that begins, or goes on.

    Args:
        kind: Its class.
        said: The command line.
        recipe: Name of its file.
        plan: What its runs have in common.
        grid: Which runs are asked for.
        texts: As of `simjax.lab.sweep.study.identity`, like what follows.
        own: Folder of the study's own modules.
        told_by: Those that measure nothing themselves.
    """
    from simjax.lab import folder
    from simjax.lab.sweep.study import busy, identity

    told, where = plan.told(), folder.where()
    return kind(
        commands=[said],
        machine=where,
        recipe=recipe,
        told=told,
        metric=str(plan.recipe.evaluation.metric),
        grids=[dataclasses.asdict(grid)],
        identity=identity(told, texts, where, own, told_by),
        busy=busy(),
    )
