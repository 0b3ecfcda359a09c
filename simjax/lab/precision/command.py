"""The float-error study of InfoNCE, DCL and FlatNCE: gradients beside float64, and short runs.

Measurements are kept one by one in the output folder; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simjax.errors import UsageError
from simjax.lab.bench.arguments import positive
from simjax.lab.precision.settings import (
    QUICK_ARITHMETIC,
    QUICK_TRAINING,
    ArithmeticSettings,
    RunKey,
    TrainingSettings,
    input_keys,
    run_keys,
)
from simjax.remote import path_here

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from simjax.lab.precision.study import Study
    from simjax.lab.precision.texts import Corpus

SELDOM = 300.0
OUTPUT, QUICK_OUTPUT = Path("runs/precision"), Path("runs/precision-quick")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--output",
        type=path_here,
        metavar="DIR",
        help=f"folder of measurements and report, by default {OUTPUT}, with --quick {QUICK_OUTPUT}",
    )
    parser.add_argument(
        "--root",
        type=Path,
        metavar="DATA",
        help="folder of data sets: trains on its NLI pairs and scores STS-B dev as well; without "
        "it, texts are of the built-in corpus",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a small part of the study, in a few minutes"
    )
    parser.add_argument(
        "--report_only",
        action="store_true",
        help="measure nothing: write the report anew from the measurements that are there",
    )
    parser.add_argument(
        "--arithmetic_batches", nargs="+", type=positive, metavar="B", help="of part one"
    )
    parser.add_argument("--batches", nargs="+", type=positive, metavar="B",
        help="of part two; its easy pairs are trained on at those of 4 and 16 that are named",
    )  # fmt: skip
    parser.add_argument("--seeds", type=positive, metavar="N", help="runs of each kind in part two")


def settings_of(args: argparse.Namespace) -> tuple[ArithmeticSettings, TrainingSettings]:
    """What a command line asks for.

    Raises:
        UsageError: A batch has no negatives.
    """
    arithmetic = QUICK_ARITHMETIC if args.quick else ArithmeticSettings()
    training = QUICK_TRAINING if args.quick else TrainingSettings()
    for name in ("arithmetic_batches", "batches"):
        if 1 in (getattr(args, name) or ()):
            raise UsageError(f"--{name} 1: a batch of one example has no negatives")
    if args.arithmetic_batches:
        batches = tuple(sorted(set(args.arithmetic_batches)))
        arithmetic = dataclasses.replace(arithmetic, batches=batches)
    if args.batches:
        batches = tuple(sorted(set(args.batches)))
        wrong = [batch for batch in batches if batch > 32 and batch % 32]
        if wrong:
            raise UsageError(f"--batches {wrong[0]}: above 32, give a multiple of 32")
        easy = tuple(batch for batch in training.easy_batches if batch in batches)
        training = dataclasses.replace(training, batches=batches, easy_batches=easy)
    if args.seeds:
        training = dataclasses.replace(training, seeds=args.seeds)
    return arithmetic, training


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what is missing and write the report.

    Returns:
        `report`, the path of the report; or `stopped`, the signal that ended the study early.
    """
    from rich.console import Console

    from simjax.lab.precision import report
    from simjax.lab.precision import study as studies
    from simjax.train.folder import locked

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    folder = args.output or (QUICK_OUTPUT if args.quick else OUTPUT)
    folder = folder.expanduser()
    if args.report_only:
        for name in ("root", "arithmetic_batches", "batches", "seeds"):
            if getattr(args, name) is not None:
                raise UsageError(f"--report_only: measures nothing; leave --{name} out")
    else:
        settings = settings_of(args)
        studies.open_folder(folder)
        with locked(folder):
            stopped = _measure(args, settings, folder, console)
        if stopped is not None:
            return {"stopped": stopped}
    path, lines = report.write(folder, studies.Study.read(folder))
    for line in lines:
        console.print(line, markup=False)
    console.print(f"The report is {path}; its tables are beside it as CSV, its plots as PNG.")
    return {"report": str(path)}


def _measure(
    args: argparse.Namespace,
    settings: tuple[ArithmeticSettings, TrainingSettings],
    folder: Path,
    console: Console,
) -> str | None:
    """Make the measurements that are missing; returns the signal that ended it early."""
    from simjax.lab.bench import machine

    machine.share_accelerator()

    from simjax.lab.bench.report import telling
    from simjax.lab.precision import arithmetic, texts, training
    from simjax.lab.precision import study as studies
    from simjax.train.signals import StopRequest

    of_arithmetic, of_training = settings
    corpus = texts.load(args.root)
    training.check_batches(corpus, of_training)
    study = _describe(args, of_arithmetic, of_training, corpus)
    parts = {name: study.records(folder, name) for name in study.identity}
    for part_records in parts.values():
        part_records.cut_tail()
    study.write(folder)
    first = list(input_keys(of_arithmetic))
    second = [dataclasses.asdict(key) for key in run_keys(of_training)]
    console.print(
        f"Part one: {len(first):,} inputs. Part two: {len(second):,} runs on {corpus.name}. "
        f"{sum(map(len, parts.values())):,} measurements are there already.",
        markup=False,
    )
    with StopRequest() as stop, telling() as said:
        tell = said if console.is_terminal else _seldom(console)

        def part(name: str, keys: list, one: Callable[[dict], dict]) -> bool:
            return studies.measure(
                parts[name], keys, one, stopped=lambda: stop.requested, said=tell
            )

        whole = part(studies.ARITHMETIC, first, lambda key: arithmetic.measure(key, of_arithmetic))
        batch, rate = min(of_training.batches), max(of_training.adamw_rates)
        check = {"check": "dcl", "batch": batch, "rate": rate}
        wanted = [key for key in second if key not in parts[studies.RUNS]]
        if whole and (wanted or check not in parts[studies.CHECKS]):
            said("tokenising")
            trainer = training.Trainer(corpus, of_training)
            whole = part(
                studies.CHECKS, [check], lambda key: trainer.dcl_difference(batch, rate)
            ) and part(studies.RUNS, second, lambda key: trainer.run(RunKey(**key)))
        name = stop.name
    if whole:
        return None
    made = sum(map(len, parts.values()))
    console.print(f"{name}: {made:,} measurements are kept; the same command goes on from there")
    return name or "stopped"


def _seldom(console: Console) -> Callable[[str], None]:
    """Prints a line in `SELDOM` seconds, for files that collect what a long study says."""
    printed = time.monotonic()

    def tell(line: str) -> None:
        nonlocal printed
        if time.monotonic() - printed > SELDOM:
            printed = time.monotonic()
            console.print(line, markup=False)

    return tell


def _describe(
    args: argparse.Namespace,
    arithmetic: ArithmeticSettings,
    training: TrainingSettings,
    corpus: Corpus,
) -> Study:
    from simjax.lab.bench import machine
    from simjax.lab.precision.study import Study, identity

    told = machine.describe()
    where = {name: told[name] for name in ("device", "processor", "cores", "Python", "jax")}
    return Study(
        commands=[command_line(args)],
        machine=where,
        corpus=corpus.name,
        texts={"pairs": len(corpus.pairs), "held out": len(corpus.held_out)},
        arithmetic=dataclasses.asdict(arithmetic),
        training=dataclasses.asdict(training),
        identity=identity(arithmetic, training, corpus.digest, where),
    )


def command_line(args: argparse.Namespace) -> str:
    """The command as anybody can repeat it: folders of this machine are left out."""
    parts = ["simjax lab precision"]
    if args.quick:
        parts.append("--quick")
    if args.root is not None:
        parts.append("--root DATA")
    for name in ("arithmetic_batches", "batches"):
        if getattr(args, name):
            parts.append(f"--{name} {' '.join(map(str, getattr(args, name)))}")
    if args.seeds:
        parts.append(f"--seeds {args.seeds}")
    return " ".join(parts)
