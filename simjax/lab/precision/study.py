"""A study in its folder: what it is made with, its measurements, and going on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simjax.errors import SimjaxError
from simjax.lab.precision.records import Records, fingerprint
from simjax.lab.precision.settings import GRIDS, ArithmeticSettings, TrainingSettings

STUDY = "study.json"
ARITHMETIC, RUNS, CHECKS = "arithmetic.jsonl", "runs.jsonl", "checks.jsonl"


@dataclass(frozen=True)
class Study:
    """What a report needs to know beside the measurements.

    Attributes:
        commands: The command lines that measured, paths left out.
        machine: Device and versions.
        corpus: Name of the texts.
        texts: How many pairs are trained on and held out.
        arithmetic: Settings of part one, with the grids of the last command.
        training: Settings of part two, likewise.
        identity: Fingerprints that records carry, by file.
    """

    commands: list[str]
    machine: dict[str, Any]
    corpus: str
    texts: dict[str, int]
    arithmetic: dict[str, Any]
    training: dict[str, Any]
    identity: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> Study:
        """The study of a folder.

        Raises:
            SimjaxError: There is none, or its description is damaged.
        """
        path = folder / STUDY
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise SimjaxError(
                f"{path}: no such file: there is no study to report on; run without --report_only"
            ) from None
        except (ValueError, TypeError) as error:
            raise SimjaxError(f"{path}: damaged; run the study again to write it") from error

    def write(self, folder: Path) -> None:
        """Keep it in the folder, with the commands that measured there before."""
        from simjax.eval.report import write_json

        try:
            earlier = Study.read(folder).commands
        except SimjaxError:
            earlier = []
        commands = list(dict.fromkeys([*earlier, *self.commands]))
        write_json(folder / STUDY, dataclasses.asdict(self) | {"commands": commands})

    def records(self, folder: Path, name: str) -> Records:
        """The measurements of one file.

        Raises:
            SimjaxError: They were made with other settings, or the file is malformed.
        """
        return Records(folder / name, self.identity[name])


def identity(
    arithmetic: ArithmeticSettings,
    training: TrainingSettings,
    texts: str,
    machine: dict[str, Any],
) -> dict[str, str]:
    """What must not change between measurements of one file, as fingerprints.

    Grids may: a study can be given more seeds, batch sizes or rates later on.
    """
    where = {name: machine[name] for name in ("device", "jax")}
    of_training = fingerprint(_deciding(training), texts, where)
    return {
        ARITHMETIC: fingerprint(_deciding(arithmetic), where),
        RUNS: of_training,
        CHECKS: of_training,
    }


def _deciding(settings: ArithmeticSettings | TrainingSettings) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(settings).items() if k not in GRIDS}


def measure(
    records: Records,
    keys: list[dict[str, Any]],
    one: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    stopped: Callable[[], bool],
    said: Callable[[str], None],
) -> bool:
    """Measure what is not in the records yet, one by one, each kept as soon as it is there.

    Args:
        records: Where to.
        keys: What to measure.
        one: Measures one key.
        stopped: Asked before each; whether to leave it at that.
        said: Told how far it is.

    Returns:
        Whether everything is there.
    """
    missing = [key for key in keys if key not in records]
    began = time.monotonic()
    for number, key in enumerate(missing):
        if stopped():
            return False
        left = (time.monotonic() - began) / number * (len(missing) - number) if number else None
        about = "" if left is None else f", about {max(1, round(left / 60))} min left"
        done = len(keys) - len(missing) + number
        said(f"{done:,} of {len(keys):,}{about}: {', '.join(f'{k} {v}' for k, v in key.items())}")
        records.append(key, one(key))
    return True
