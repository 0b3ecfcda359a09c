"""What the commands of all studies have in common: options, folder, and the way to a report."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from simjax.errors import UsageError
from simjax.remote import path_here

if TYPE_CHECKING:
    from rich.console import Console

Described = TypeVar("Described")


def add_arguments(parser: argparse.ArgumentParser, name: str, *, root: str, quick: str) -> None:
    """Declare `--output`, `--root`, `--quick` and `--report_only`.

    Args:
        parser: Of the study.
        name: Of the study.
        root: What `--root` is for.
        quick: What `--quick` does.
    """
    full, small = (default_folder(name, quick=quick) for quick in (False, True))
    parser.add_argument(
        "--output",
        type=path_here,
        metavar="DIR",
        help=f"folder of measurements and report, by default {full}, with --quick {small}",
    )
    parser.add_argument("--root", type=Path, metavar="DATA", help=root)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument(
        "--report_only",
        action="store_true",
        help="measure nothing: write the report anew from the measurements that are there",
    )


def default_folder(name: str, *, quick: bool) -> Path:
    """Where a study goes that is not told where."""
    return Path("runs") / (f"{name}-quick" if quick else name)


def run(
    args: argparse.Namespace,
    name: str,
    options: Sequence[str],
    *,
    prepare: Callable[[Path], Callable[[Console], None]],
    read: Callable[[Path], Described],
    report: Callable[[Path, Described], tuple[Path, list[str]]],
    before: Collection[str] = (),
) -> dict[str, Any]:
    """Measure what is missing and write the report.

    Args:
        args: The command line.
        name: Of the study.
        options: Names of the arguments that say what is measured, which a report alone is not told.
        prepare: Given the folder, checks the command line, writes nothing, and returns what
            measures; that raises `simjax.lab.measuring.Stopped` when a signal ends it.
        read: The study of a folder.
        report: Writes the report of a folder's study; its path and what it concludes.
        before: As of `simjax.lab.folder.open_folder`.

    Returns:
        `report`, the path of the report; or `stopped`, the signal that ended the study early.

    Raises:
        UsageError: An option goes with no report alone, or `prepare` finds it wrong.
    """
    from rich.console import Console

    from simjax.lab.folder import open_folder
    from simjax.lab.measuring import Stopped
    from simjax.train.folder import locked

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    folder = (args.output or default_folder(name, quick=args.quick)).expanduser()
    if args.report_only:
        _refuse(args, options)
    else:
        measure = prepare(folder)
        open_folder(folder, read, before)
        try:
            with locked(folder):
                measure(console)
        except Stopped as stopped:
            console.print(
                f"{stopped}: {stopped.kept:,} measurements are kept; the same command goes on from "
                "there"
            )
            return {"stopped": str(stopped)}
    path, lines = report(folder, read(folder))
    for line in lines:
        console.print(line, markup=False)
    console.print(f"The report is {path}; its tables are beside it as CSV, its plots as PNG.")
    return {"report": str(path)}


def _refuse(args: argparse.Namespace, options: Sequence[str]) -> None:
    given = [
        "CONFIG" if option == "config" else f"--{option}"
        for option in options
        if getattr(args, option) is not None
    ]
    if given := [*given, *getattr(args, "rest", ())]:
        raise UsageError(f"--report_only: measures nothing; leave {given[0]} out")


def command_line(
    args: argparse.Namespace,
    name: str,
    options: Sequence[str],
    word: Callable[[Any], str] = str,
) -> str:
    """The command as anybody can repeat it: folders of this machine are left out.

    Args:
        args: The command line.
        name: Of the study.
        options: As of `run`, in order.
        word: Writes a value of an option.
    """
    parts = ["simjax lab", name]
    if getattr(args, "config", None) is not None:
        beside = "configs/" if args.config.parent.name == "configs" else ""
        parts.append(f"{beside}{args.config.name}")
    if args.quick:
        parts.append("--quick")
    if args.root is not None:
        parts.append("--root DATA")
    for option in options:
        given = None if option in ("config", "root") else getattr(args, option)
        if given is not None:
            values = given if isinstance(given, list) else [given]
            parts.append(f"--{option} {' '.join(map(word, values))}")
    for override in getattr(args, "rest", ()):
        key, _, value = override.partition("=")
        # A path below this machine's folders says nothing to others.
        said = Path(value).name if value.startswith(("/", "~", ".")) else value
        parts.append(f"{key} {shlex.quote(said)}")
    return " ".join(parts)
