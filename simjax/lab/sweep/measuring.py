"""The runs of a sweep that are missing, made one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from simjax.lab import measuring
from simjax.lab.sweep.runs import Runner
from simjax.lab.sweep.study import Study
from simjax.train.config import RunConfig


def measure(
    study: Study,
    folder: Path,
    keys: Sequence[Any],
    configure: Callable[[Any], RunConfig],
    console: Console,
    runner: type[Runner[Any]] = Runner,
) -> None:
    """Make the runs that are missing, and write down what the study is before the first.

    Args:
        study: Of the command.
        folder: Of the study.
        keys: The runs that are asked for.
        configure: As of `Runner`.
        console: Where it is told how far this is.
        runner: What makes a run; one of the study's own may keep more of it.

    Raises:
        Stopped: A signal came; the runs that were made are kept.
        SimjaxError: The folder's study is another, or a run cannot be made.
    """
    study.write(folder)
    records = study.records(folder)
    records.cut_tail()
    make = runner(configure)
    for record in records:
        make.forget(study.key(record.key))
    plain = [dataclasses.asdict(key) for key in keys]
    there = sum(key in records for key in plain)
    console.print(f"{len(keys):,} runs, of which {there:,} are there already.")
    with measuring.session(console, [records]) as session:
        session.measure(
            records,
            plain,
            lambda key: make(study.key(key)),
            words=lambda key: str(study.key(key)),
            after=lambda key: make.forget(study.key(key)),
        )
