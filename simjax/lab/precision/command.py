"""The float-error study of InfoNCE, DCL and FlatNCE: gradients beside float64, and short runs.

Measurements are kept one by one in the output folder; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simjax.argument_types import positive
from simjax.errors import UsageError
from simjax.lab import command
from simjax.lab.precision.settings import (
    QUICK_ARITHMETIC,
    QUICK_TRAINING,
    ArithmeticSettings,
    RunKey,
    TrainingSettings,
    input_keys,
    run_keys,
)

if TYPE_CHECKING:
    from rich.console import Console

    from simjax.lab.precision.study import Study
    from simjax.lab.precision.texts import Corpus

SELDOM = 300.0
"""Seconds between two lines that say how far it is, where they are collected in a file."""
NAME = "precision"
OPTIONS = ("root", "arithmetic_batches", "batches", "seeds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    command.add_arguments(
        parser,
        NAME,
        root="folder of data sets: trains on its NLI pairs and scores STS-B dev as well; without "
        "it, texts are of the built-in corpus",
        quick="a small part of the study, in a few minutes",
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
    """Measure what is missing and write the report; as `simjax.lab.command.run`."""
    from simjax.lab.precision import report
    from simjax.lab.precision.study import Study

    return command.run(
        args,
        NAME,
        OPTIONS,
        prepare=lambda folder: partial(_measure, args, settings_of(args), folder),
        read=Study.read,
        report=report.write,
    )


def _measure(
    args: argparse.Namespace,
    settings: tuple[ArithmeticSettings, TrainingSettings],
    folder: Path,
    console: Console,
) -> None:
    from simjax.lab.bench import machine

    machine.share_accelerator()

    from simjax.lab import measuring
    from simjax.lab.precision import arithmetic, texts, training
    from simjax.lab.precision.study import ARITHMETIC, CHECKS, RUNS

    of_arithmetic, of_training = settings
    corpus = texts.load(args.root)
    training.check_batches(corpus, of_training)
    study = _describe(args, of_arithmetic, of_training, corpus)
    parts = {name: study.records(folder, name) for name in study.identity}
    for part in parts.values():
        part.cut_tail()
    study.write(folder)
    first = list(input_keys(of_arithmetic))
    second = [dataclasses.asdict(key) for key in run_keys(of_training)]
    console.print(
        f"Part one: {len(first):,} inputs. Part two: {len(second):,} runs on {corpus.name}. "
        f"{sum(map(len, parts.values())):,} measurements are there already.",
        markup=False,
    )
    batch, rate = min(of_training.batches), max(of_training.adamw_rates)
    check = {"check": "dcl", "batch": batch, "rate": rate}
    with measuring.session(console, list(parts.values()), SELDOM) as session:
        session.measure(
            parts[ARITHMETIC], first, lambda key: arithmetic.measure(key, of_arithmetic)
        )
        if check in parts[CHECKS] and all(key in parts[RUNS] for key in second):
            return
        session.tell("tokenising")
        trainer = training.Trainer(corpus, of_training)
        session.measure(parts[CHECKS], [check], lambda key: trainer.dcl_difference(batch, rate))
        session.measure(parts[RUNS], second, lambda key: trainer.run(RunKey(**key)))


def _describe(
    args: argparse.Namespace,
    arithmetic: ArithmeticSettings,
    training: TrainingSettings,
    corpus: Corpus,
) -> Study:
    from simjax.lab import folder
    from simjax.lab.precision.study import Study, identity

    where = folder.where()
    return Study(
        commands=[command.command_line(args, NAME, OPTIONS)],
        machine=where,
        corpus=corpus.name,
        texts={"pairs": len(corpus.pairs), "held out": len(corpus.held_out)},
        arithmetic=dataclasses.asdict(arithmetic),
        training=dataclasses.asdict(training),
        identity=identity(arithmetic, training, corpus.digest, where),
    )
