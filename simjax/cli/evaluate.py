"""Score a model on similarity and retrieval sets."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from simjax.argument_types import positive
from simjax.cli.arguments import add_json
from simjax.cli.model import add_model, load_model
from simjax.errors import SimjaxError, UsageError
from simjax.remote import path_here

if TYPE_CHECKING:
    from simjax.eval.tasks import Results, Task, Tasks

# Sets of a data root by name: what they are, and where they lie; for training and testing.
SETS: dict[str, tuple[str, ...]] = {
    "sts12": ("sts", "en/sts12"),
    "sts13": ("sts", "en/sts13"),
    "sts14": ("sts", "en/sts14"),
    "stsb-dev": ("sts", "en/stsb/dev.tsv"),
    "cranfield": ("retrieval", "en/cranfield"),
    "mr": ("classification", "en/transfer/mr.tsv"),
    "cr": ("classification", "en/transfer/cr.tsv"),
    "mpqa": ("classification", "en/transfer/mpqa.tsv"),
    "trec": ("classification", "en/transfer/trec_train.tsv", "en/transfer/trec_test.tsv"),
    "atec-train": ("sts", "zh/atec/train.tsv"),
    "afqmc-dev": ("sts", "zh/afqmc/dev.tsv"),
    "lcqmc-dev": ("sts", "zh/lcqmc/dev.tsv"),
    "zh-stsb-dev": ("sts", "zh/stsb/dev.tsv"),
}
GROUPS = {
    "transfer": ("mr", "cr", "mpqa", "trec"),
    "chinese": ("atec-train", "lcqmc-dev", "zh-stsb-dev"),
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
        choices=(*SETS, *GROUPS, BUILTIN),
        default=[],
        help=f"of {', '.join(SETS)}; "
        + "; ".join(f"{name} for {', '.join(sets)}" for name, sets in GROUPS.items())
        + f"; {BUILTIN} (retrieval over the built-in corpus); without this, --sts, "
        f"--classification and --retrieval: {', '.join(STANDARD)}, or {BUILTIN} where there is no "
        "folder of data sets",
    )
    parser.add_argument(
        "--sts",
        nargs="+",
        metavar="PATH",
        default=[],
        help="TSV files, or folders of them, of sentence1, sentence2 and score (or label, 0 or 1)",
    )
    parser.add_argument(
        "--classification",
        nargs="+",
        metavar="PATH",
        default=[],
        help="TSV files of sentence and label, which are cross-validated in ten folds; TRAIN:TEST "
        "where there is a test file",
    )
    parser.add_argument(
        "--logistic",
        action="store_true",
        help="score scikit-learn's logistic regression beside, where the task is classification",
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
        "--compare",
        metavar="OTHER",
        help="another model: scored beside, and the distances between the two models' unit "
        "embeddings of each task's texts: linear CKA and, as Gaussians, Wasserstein-2, "
        "Bhattacharyya and KL(MODEL || OTHER) both ways",
    )
    parser.add_argument(
        "--shrinkage",
        type=float,
        metavar="S",
        default=0.0,
        help="with --compare: move both covariances towards a multiple of the identity, from 0 (as "
        "they are) to 1, which gives few texts in many dimensions finite distances",
    )
    parser.add_argument(
        "--truncate_dim",
        type=positive,
        metavar="D",
        help="score the first D dimensions alone, made unit vectors again",
    )
    parser.add_argument(
        "--plot", type=path_here, metavar="FILE", help="draw the scores into a PNG file"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluate and print a table."""
    if not 0.0 <= args.shrinkage <= 1.0:
        raise UsageError(f"--shrinkage {args.shrinkage:g}: give a number from 0 to 1")
    if args.shrinkage and args.compare is None:
        raise UsageError("--shrinkage is for --compare, which is not given")
    from simjax.eval import report, tasks

    loaded = tasks.load(tasks.EvalConfig(tasks=tuple(choose(args)), logistic=args.logistic))
    results = score(args, loaded)
    heading = Path(args.model).name or args.model
    columns = {heading: results.metrics}
    figures: dict[str, object] = {"model": args.model, "scores": results.metrics}
    if args.truncate_dim is not None:
        figures["truncate_dim"] = args.truncate_dim
    spectra = results.spectra
    if args.compare is not None:
        from simjax.eval.comparison import compare_tasks

        other = score(args, loaded, args.compare)
        between = compare_tasks(results.embeddings, other.embeddings, args.shrinkage)
        name = Path(args.compare).name or args.compare
        if name == heading:
            heading, name = args.model, args.compare
        if name == heading:  # the model with itself, which shows how far rounding goes
            name = f"{name} (again)"
        columns = {heading: results.metrics, name: other.metrics, "between": between}
        figures |= {"other": args.compare, "other_scores": other.metrics, "between": between}
        figures["shrinkage"] = args.shrinkage
        spectra = {
            f"{task} ({who})": values
            for who, found in ((heading, results), (name, other))
            for task, values in found.spectra.items()
        }
    if args.baseline:
        columns["TF-IDF"] = tasks.baseline(loaded)
        figures["baseline"] = columns["TF-IDF"]
    from rich.console import Console

    console = Console()
    console.print(report.table(columns))
    for line in remarks(columns.get("between", {})):
        console.print(line, highlight=False, markup=False)
    if args.json is not None:
        report.write_json(args.json, figures)
    if args.plot is not None:
        columns.pop("between", None)
        report.plot(args.plot, columns, spectra)


def score(args: argparse.Namespace, loaded: Tasks, model: str | None = None) -> Results:
    """The scores of the model that the arguments name, or of another with the same options."""
    from simjax.eval import tasks

    if model is not None:
        args = argparse.Namespace(**{**vars(args), "model": model})
    encoder = load_model(args)
    options = {"batch_size": args.batch_size, "truncate_dim": args.truncate_dim}
    encode, queries, documents = (
        partial(encode, **options, show_progress_bar=True)
        for encode in (encoder.encode, *encoder.for_retrieval)
    )
    sides = (queries, documents)
    return tasks.evaluate(loaded, encode, sides=sides, keep=args.compare is not None)


def remarks(between: Mapping[str, float]) -> Iterator[str]:
    """What has to be said of distances that are not there, or not finite."""
    if not between:
        return
    if not any(name.endswith("/kl") for name in between):
        yield "The models' embeddings have different widths: there are no distances as Gaussians."
    elif any(value == math.inf for value in between.values()):
        yield (
            "inf: the two sets fill different subspaces, as do fewer texts than dimensions; "
            "--shrinkage 0.01, say, gives finite distances, which depend on it."
        )


def choose(args: argparse.Namespace) -> list[Task]:
    """The tasks that the arguments name, with paths that need no root.

    Raises:
        UsageError: Named sets without a data root.
        SimjaxError: A data root with none of the standard sets.
    """
    from simjax.data.records import plain_or_gzip
    from simjax.eval.tasks import Task

    names = list(dict.fromkeys(n for name in args.tasks for n in GROUPS.get(name, (name,))))
    root = None if args.root is None else Path(args.root)
    if not (names or args.sts or args.classification or args.retrieval):
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
        if root is None:
            raise UsageError(f"--tasks {name}: give the data sets' folder as --root")
        kind, *paths = SETS[name]
        found.append(task(kind, [str(root / path) for path in paths], name))
    found += [Task("sts", path) for path in args.sts]
    found += [task("classification", path.split(":", 1)) for path in args.classification]
    found += [Task("retrieval", path) for path in args.retrieval]
    return found


def task(kind: str, paths: list[str], name: str | None = None) -> Task:
    """A set by its kind and its files: for classification that of test examples comes second."""
    from simjax.eval.tasks import Task

    if kind == "classification":
        return Task("classification", paths[0], name, test=paths[1] if paths[1:] else None)
    return Task("sts" if kind == "sts" else "retrieval", paths[0], name)
