"""A study in its folder: what it is made with, which runs were asked for, and their records."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simjax.errors import SimjaxError
from simjax.lab.precision.records import Record, Records, fingerprint
from simjax.lab.scaling.grid import Grid, RunKey, run_keys
from simjax.train.folder import MARK

STUDY, RUNS = "study.json", "runs.jsonl"
OF_STUDY = "batch-size scaling"
TOLD_BY = frozenset({"command", "conclusions", "effects", "plots", "report", "tables"})
"""Modules that tell what was measured, and measure nothing themselves."""
MEASURED_BY = ("data", "eval", "models", "objectives", "ops", "train")


@dataclass(frozen=True)
class Study:
    """What a report needs to know beside the records.

    Attributes:
        commands: The command lines that measured, paths left out.
        machine: Device and versions.
        recipe: Name of its file.
        told: What runs have in common, as of `Plan.told`.
        metric: The score that tells how good a run is.
        grids: What the commands asked for.
        identity: Fingerprint that records carry.
        busy: Notes of commands that found the machine busy.
        kind: Of study.
    """

    commands: list[str]
    machine: dict[str, Any]
    recipe: str
    told: dict[str, Any]
    metric: str
    grids: list[dict[str, Any]]
    identity: str
    busy: list[str]
    kind: str = OF_STUDY

    @classmethod
    def read(cls, folder: Path) -> Study:
        """The study of a folder.

        Raises:
            SimjaxError: There is none, or its description is damaged.
        """
        path = folder / STUDY
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
            if found.kind != OF_STUDY or not found.planned():
                raise ValueError("another study")
        except FileNotFoundError:
            raise SimjaxError(
                f"{path}: no such file: there is no study to report on; run without --report_only"
            ) from None
        except OSError as error:
            raise SimjaxError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SimjaxError(
                f"{path}: damaged, or of another study or version; choose another --output"
            ) from error
        return found

    def write(self, folder: Path) -> None:
        """Keep it in the folder, with the commands that measured there before.

        Raises:
            SimjaxError: The folder's study was made with something else.
        """
        from simjax.eval.report import write_json

        kept = dataclasses.asdict(self)
        if (folder / STUDY).exists():
            before = Study.read(folder)
            if before.identity != self.identity:
                raise SimjaxError(
                    f"{folder / STUDY}: this study was made with another recipe, data, code, "
                    f"device or version ({before.identity}, now {self.identity}); choose another "
                    "--output"
                )
            for name in ("commands", "grids", "busy"):
                every = [*getattr(before, name), *json.loads(json.dumps(kept[name]))]
                kept[name] = [x for place, x in enumerate(every) if x not in every[:place]]
        write_json(folder / STUDY, kept)

    def planned(self) -> list[RunKey]:
        """All runs that the commands so far asked for, each once."""
        base = self.told["base_batch"]
        every = [key for grid in self.grids for key in run_keys(Grid.of(grid), base)]
        return list(dict.fromkeys(every))

    def records(self, folder: Path) -> Records:
        """The runs that were made.

        Raises:
            SimjaxError: They were made with other settings, or the file is malformed.
        """
        return Records(folder / RUNS, self.identity, self._check)

    def _check(self, record: Record) -> None:
        RunKey(**record.key)
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


def open_folder(folder: Path) -> None:
    """Make the folder of a study, or see that it is one.

    Raises:
        SimjaxError: It holds something else.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A tokenizer is learned before the study can be described.
        found = {path.name for path in folder.iterdir()} - {MARK, "tokenizer", "tokenizer.partial"}
    except OSError as error:
        raise SimjaxError(
            f"{folder}: cannot be the output folder ({error.strerror}); choose another --output"
        ) from error
    if found and STUDY not in found:
        raise SimjaxError(f"{folder}: holds files that are not of a study; choose another --output")
    if found:
        Study.read(folder)


def sources() -> str:
    """A digest of the code that measures: training and what it stands on, and this package's."""
    here = Path(__file__).parent
    package = here.parents[1]
    files = [path for path in here.glob("*.py") if path.stem not in TOLD_BY]
    files += [path for part in MEASURED_BY for path in (package / part).rglob("*.py")]
    digest = hashlib.sha256()
    for path in sorted([*files, package / "mesh.py"]):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]


def identity(told: dict[str, Any], texts: str, machine: dict[str, Any]) -> str:
    """What must not change between the runs of a study, as a fingerprint. The grid may.

    Args:
        told: As of `Plan.told`.
        texts: Differs where training or evaluation texts do, or the tokenizer.
        machine: Device and versions.
    """
    where = {name: machine[name] for name in ("device", "jax")} | {"code": sources()}
    return fingerprint(told, texts, where)
