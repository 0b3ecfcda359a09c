"""Score a model on similarity and retrieval sets."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from simjax.cli.arguments import add_json
from simjax.cli.model import add_model, load_model
from simjax.errors import SimjaxError, UsageError
from simjax.remote import path_here

if TYPE_CHECKING:
    from simjax.eval.tasks import Task

# Sets of a data root by name: what they are, and where they lie.
SETS = {
    "sts12": ("sts", "en/sts12"),
    "sts13": ("sts", "en/sts13"),
    "sts14": ("sts", "en/sts14"),
    "stsb-dev": ("sts", "en/stsb/dev.tsv"),
    "cranfield": ("retrieval", "en/cranfield"),
}
STANDARD = ("sts12", "sts13", "sts14", "stsb-dev")
BUILTIN = "builtin"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_model(parser)
    parser.add_argument(
        "--root",
        "--data.root",
        dest="root",
        metavar="DIR",
        default=os.environ.get("SIMJAX_DATA"),
        help="folder of data sets that --tasks are in; without it, the one SIMJAX_DATA names",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="NAME",
        choices=(*SETS, BUILTIN),
        default=[],
        help=f"of {', '.join(SETS)} and {BUILTIN} (retrieval over the built-in corpus); without "
        f"this, --sts and --retrieval: {', '.join(STANDARD)}, or {BUILTIN} where there is no "
        "folder of data sets",
    )
    parser.add_argument(
        "--sts",
        nargs="+",
        metavar="PATH",
        default=[],
        help="TSV files, or folders of them, of sentence1, sentence2, score",
    )
    parser.add_argument(
        "--retrieval",
        nargs="+",
        metavar="DIR",
        default=[],
        help="folders in BEIR's layout: corpus.jsonl, queries.jsonl, qrels",
    )
    parser.add_argument(
        "--baseline", action="store_true", help="score TF-IDF beside, where the task is retrieval"
    )
    parser.add_argument(
        "--plot", type=path_here, metavar="FILE", help="draw the scores into a PNG file"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluate and print a table."""
    from simjax.eval import report, tasks

    chosen = choose(args)
    loaded = tasks.load(tasks.EvalConfig(tasks=tuple(chosen)))
    encoder = load_model(args)
    encode = partial(encoder.encode, batch_size=args.batch_size, show_progress_bar=True)
    results = tasks.evaluate(loaded, encode)
    columns = {Path(args.model).name or args.model: results.metrics}
    if args.baseline:
        columns["TF-IDF"] = tasks.baseline(loaded)
    from rich.console import Console

    Console().print(report.table(columns))
    if args.json is not None:
        figures: dict[str, object] = {"model": args.model, "scores": results.metrics}
        if args.baseline:
            figures["baseline"] = columns["TF-IDF"]
        report.write_json(args.json, figures)
    if args.plot is not None:
        report.plot(args.plot, columns, results.spectra)


def choose(args: argparse.Namespace) -> list[Task]:
    """The tasks that the arguments name, with paths that need no root.

    Raises:
        UsageError: Named sets without a data root.
        SimjaxError: A data root with none of the standard sets.
    """
    from simjax.data.records import plain_or_gzip
    from simjax.eval.tasks import Task

    names = list(dict.fromkeys(args.tasks))
    root = None if args.root is None else Path(args.root)
    if not names and not args.sts and not args.retrieval:
        if root is None:
            names = [BUILTIN]
        else:
            names = [name for name in STANDARD if plain_or_gzip(root / SETS[name][1]).exists()]
            if not names:
                raise SimjaxError(f"{root}: none of {', '.join(STANDARD)}; see simjax data check")
    found = []
    for name in names:
        if name == BUILTIN:
            found.append(Task("builtin"))
            continue
        kind, path = SETS[name]
        if root is None:
            raise UsageError(f"--tasks {name}: give the data sets' folder as --root")
        found.append(Task("sts" if kind == "sts" else "retrieval", str(root / path), name))
    found += [Task("sts", path) for path in args.sts]
    found += [Task("retrieval", path) for path in args.retrieval]
    return found
