"""The folder of a study: told apart from other folders, and described in a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from simjax.errors import SimjaxError
from simjax.train.folder import MARK

STUDY = "study.json"
"""What a study is made with, which is written before anything is measured."""
Described = TypeVar("Described")


def read(folder: Path, described: Callable[[dict[str, Any]], Described]) -> Described:
    """The study of a folder.

    Args:
        folder: Of the study.
        described: Makes it of the fields of its description; raises `AttributeError`, `KeyError`,
            `TypeError` or `ValueError` where they are those of something else.

    Raises:
        SimjaxError: There is none, or its description is damaged.
    """
    path = folder / STUDY
    try:
        return described(json.loads(path.read_text(encoding="utf-8")))
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


def open_folder(folder: Path, read: Callable[[Path], object], before: Collection[str] = ()) -> None:
    """Make the folder of a study, or see that it is one.

    Args:
        folder: Of the study.
        read: Reads the study of a folder, or raises.
        before: Names of files that a study makes before it can be described.

    Raises:
        SimjaxError: It holds something else.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = {path.name for path in folder.iterdir()} - {MARK, *before}
    except OSError as error:
        raise SimjaxError(
            f"{folder}: cannot be the output folder ({error.strerror}); choose another --output"
        ) from error
    if found and STUDY not in found:
        raise SimjaxError(f"{folder}: holds files that are not of a study; choose another --output")
    if found:
        read(folder)


def where() -> dict[str, Any]:
    """What a study is made on: device and versions."""
    from simjax.lab.bench import machine

    told = machine.describe()
    return {name: told[name] for name in ("device", "processor", "cores", "Python", "jax")}
