"""A sweep as its folder describes it: what it is made with, its runs, and their records."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from simjax.errors import SimjaxError
from simjax.lab import folder as folders
from simjax.lab.folder import STUDY
from simjax.lab.records import Record, Records, fingerprint
from simjax.lab.sources import sources
from simjax.lab.sweep.keys import Key

RUNS = "runs.jsonl"
TOLD_BY = frozenset({"command", "conclusions", "contrasts", "outcomes"})
"""Modules of this package that tell what was measured, and measure nothing themselves."""


@dataclass(frozen=True)
class Study(ABC):
    """What a report needs to know beside the records. Each sweep has a class of its own.

    Attributes:
        commands: The command lines that measured, paths left out.
        machine: Device and versions.
        recipe: Name of its file.
        told: What decides the result of a run beside its key.
        metric: The score that tells how good a run is.
        grids: What the commands asked for.
        identity: Fingerprint that records carry.
        busy: Notes of commands that found the machine busy.
        kind: Of study; a class of its own has its own.
    """

    commands: list[str]
    machine: dict[str, Any]
    recipe: str
    told: dict[str, Any]
    metric: str
    grids: list[dict[str, Any]]
    identity: str
    busy: list[str]
    kind: str = ""

    @abstractmethod
    def keys(self, grid: dict[str, Any]) -> Iterable[Key]:
        """The runs of one of `grids`."""

    @abstractmethod
    def key(self, fields: dict[str, Any]) -> Key:
        """A run by the key of its record.

        Raises:
            TypeError: It is that of something else.
        """

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The study of a folder.

        Raises:
            SimjaxError: There is none, or its description is damaged.
        """
        return folders.read(folder, cls._described)

    @classmethod
    def _described(cls, fields: dict[str, Any]) -> Self:
        found = cls(**fields)
        if found.kind != cls.kind or not found.planned():
            raise ValueError("another study")
        return found

    def write(self, folder: Path) -> None:
        """Keep it in the folder, with the commands that measured there before.

        Raises:
            SimjaxError: The folder's study was made with something else.
        """
        from simjax.eval.report import write_json

        kept = dataclasses.asdict(self)
        if (folder / STUDY).exists():
            before = self.read(folder)
            if before.identity != self.identity:
                differing = _differing(before.told, json.loads(json.dumps(self.told)))
                how = (
                    f"made otherwise ({', '.join(differing)})"
                    if differing
                    else "made with other data, code, machine or versions"
                )
                raise SimjaxError(
                    f"{folder / STUDY}: this study was {how}: {before.identity}, now "
                    f"{self.identity}; choose another --output"
                )
            for name in ("commands", "grids", "busy"):
                every = [*getattr(before, name), *json.loads(json.dumps(kept[name]))]
                kept[name] = [x for place, x in enumerate(every) if x not in every[:place]]
        write_json(folder / STUDY, kept)

    def planned(self) -> list[Any]:
        """All runs that the commands so far asked for, each once."""
        return list(dict.fromkeys(key for grid in self.grids for key in self.keys(grid)))

    def records(self, folder: Path) -> Records:
        """The runs that were made.

        Raises:
            SimjaxError: They were made with other settings, or the file is malformed.
        """
        return Records(folder / RUNS, self.identity, self._check)

    def _check(self, record: Record) -> None:
        self.key(record.key)
        values = record.values
        if not isinstance(values["diverged"], bool):
            raise TypeError("diverged is not true or false")
        if not values["diverged"]:
            float(values["scores"][self.metric])
        for name in ("noise_parts", "signal_parts"):
            for value in values[name]:
                float(value)
        for name in ("steps", "loss", "pairs_per_second", "memory", "noise", "signal"):
            if values[name] is not None:
                float(values[name])


def _differing(before: Any, now: Any, name: str = "") -> list[str]:
    """Dotted names of what is not the same."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [name]
    return [
        found
        for part in dict.fromkeys([*before, *now])
        for found in _differing(
            before.get(part), now.get(part), f"{name}.{part}" if name else str(part)
        )
    ]


def identity(
    told: dict[str, Any], texts: str, machine: dict[str, Any], own: Path, told_by: Collection[str]
) -> str:
    """What must not change between the runs of a study, as a fingerprint. The grid may.

    Args:
        told: As of `Study`.
        texts: Differs where training or evaluation texts do, or the tokenizer.
        machine: Device and versions.
        own: Folder of the study's own modules.
        told_by: Those that measure nothing themselves.
    """
    code = [sources(own, told_by), sources(Path(__file__).parent, TOLD_BY)]
    # Speeds are measured, and those of two machines have no mean.
    where = {name: machine[name] for name in ("device", "processor", "cores", "jax")}
    return fingerprint(told, texts, where | {"code": code})


def busy() -> list[str]:
    """A note where other jobs keep the machine busy."""
    from simjax.lab.bench import machine

    note = machine.crowded()
    return [f"Speeds are doubtful: {note}."] if note else []
