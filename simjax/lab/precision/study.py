"""The study as its folder describes it: what it is made with, and its measurements."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simjax.lab import folder as folders
from simjax.lab.folder import STUDY
from simjax.lab.precision.settings import (
    FORMS,
    GRIDS,
    LOGGED,
    ROUNDOFF,
    ArithmeticSettings,
    RunKey,
    TrainingSettings,
    input_keys,
    run_keys,
)
from simjax.lab.records import Record, Records, fingerprint
from simjax.lab.records import identity as key_text
from simjax.lab.sources import sources

ARITHMETIC, RUNS, CHECKS = "arithmetic.jsonl", "runs.jsonl", "checks.jsonl"
TOLD_BY = frozenset({"answers", "command", "comparisons", "outcomes", "plots", "report", "tables"})
"""Modules that tell what was measured, and measure nothing themselves."""


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
        earlier: `arithmetic` and `training` of earlier commands that asked for other grids.
    """

    commands: list[str]
    machine: dict[str, Any]
    corpus: str
    texts: dict[str, int]
    arithmetic: dict[str, Any]
    training: dict[str, Any]
    identity: dict[str, str]
    earlier: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> Study:
        """The study of a folder.

        Raises:
            SimjaxError: There is none, or its description is damaged.
        """
        return folders.read(folder, cls._described)

    @classmethod
    def _described(cls, fields: dict[str, Any]) -> Study:
        found = cls(**fields)
        if not (set(found.identity) == {ARITHMETIC, RUNS, CHECKS} and found.machine):
            raise ValueError("no study")
        found.planned()
        for settings, kind in (
            (found.arithmetic, ArithmeticSettings),
            (found.training, TrainingSettings),
        ):
            if set(settings) != {field.name for field in dataclasses.fields(kind)}:
                raise ValueError("settings of another version")
        return found

    def write(self, folder: Path) -> None:
        """Keep it in the folder, with the commands that measured there before."""
        from simjax.eval.report import write_json

        commands, earlier = self.commands, self.earlier
        if (folder / STUDY).exists():
            before = Study.read(folder)
            commands = list(dict.fromkeys([*before.commands, *self.commands]))
            own = json.loads(json.dumps(self._grids()))
            earlier = [one for one in [*before.earlier, before._grids()] if one != own]
        write_json(
            folder / STUDY, dataclasses.asdict(self) | {"commands": commands, "earlier": earlier}
        )

    def _grids(self) -> dict[str, Any]:
        return {"arithmetic": self.arithmetic, "training": self.training}

    def planned(self) -> tuple[list[dict[str, Any]], list[RunKey]]:
        """All inputs and all runs that the commands so far asked for, each once."""
        inputs: dict[str, dict[str, Any]] = {}
        runs: dict[RunKey, None] = {}
        for grids in (*self.earlier, self._grids()):
            arithmetic = ArithmeticSettings(**_tuples(grids["arithmetic"]))
            training = TrainingSettings(**_tuples(grids["training"]))
            inputs.update((key_text(key), dict(key)) for key in input_keys(arithmetic))
            runs.update(dict.fromkeys(run_keys(training)))
        return list(inputs.values()), list(runs)

    def records(self, folder: Path, name: str) -> Records:
        """The measurements of one file.

        Raises:
            SimjaxError: They were made with other settings, or the file is malformed.
        """
        return Records(folder / name, self.identity[name], CHECKED[name])


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _check_input(record: Record) -> None:
    _numbers(record.key[name] for name in ("batch", "temperature", "noise", "draw"))
    exact = ("mean_v", "mean_weight", "weight_cv", "length_ratio", "cosine")
    _numbers(record.values["exact"][name] for name in exact)
    _numbers([record.values["dcl_apart"]], none=True)
    for name, ways in record.values["errors"].items():
        if name not in ROUNDOFF:
            raise ValueError(f"unknown arithmetic {name!r}")
        for forms in ways.values():
            for form in FORMS:
                error, cosine, length = forms[form]
                _numbers((error, cosine, length), none=True)


def _check_run(record: Record) -> None:
    RunKey(**record.key)
    _numbers([record.key[name] for name in ("rate", "batch", "seed")])
    values = record.values
    if not isinstance(values["diverged"], bool) or not values["history"]:
        raise ValueError("diverged or history")
    _numbers([values["dropped"]])
    wanted = ("ndcg@10", "select/ndcg@10", "alignment", "uniformity")
    _numbers((values["scores"][name] for name in wanted), none=values["diverged"])
    _numbers(values["scores"].values(), none=values["diverged"])
    for name in LOGGED:
        _numbers(values["history"][name], none=True)


def _check_check(record: Record) -> None:
    _numbers(record.key[name] for name in ("batch", "rate"))
    _numbers([record.values["parameters"], record.values["moved"]], none=True)
    _numbers([record.values["steps"]])


def _numbers(values: Iterable[Any], *, none: bool = False) -> None:
    for value in values:
        if not isinstance(value, int | float) and not (none and value is None):
            raise TypeError(f"{value!r} is no number")


CHECKED = {ARITHMETIC: _check_input, RUNS: _check_run, CHECKS: _check_check}


def identity(
    arithmetic: ArithmeticSettings,
    training: TrainingSettings,
    texts: str,
    machine: dict[str, Any],
) -> dict[str, str]:
    """What must not change between measurements of one file, as fingerprints.

    Grids may: a study can be given more seeds, batch sizes or rates later on.
    """
    code = sources(Path(__file__).parent, TOLD_BY)
    where = {name: machine[name] for name in ("device", "jax")} | {"code": code}
    of_training = fingerprint(_deciding(training), texts, where)
    return {
        ARITHMETIC: fingerprint(_deciding(arithmetic), where),
        RUNS: of_training,
        CHECKS: of_training,
    }


def _deciding(settings: ArithmeticSettings | TrainingSettings) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(settings).items() if k not in GRIDS}
