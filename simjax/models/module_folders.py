"""Folders of a model that simjax alone reads: which there are, and how the model names them.

sentence-transformers keeps what it does not know of `config_sentence_transformers.json`, so that
each of ours is named there, with its folder; one that is not named is none of ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from simjax.errors import SimjaxError
from simjax.models.tensor_files import read_json_object

Own: TypeAlias = Literal["flow", "decoder", "latents"]
"""What a folder of ours holds, which is also what it is called."""
SETTINGS = "config_sentence_transformers.json"
CONFIG = "config.json"
"""The settings of each."""


def declared(names: Iterable[Own]) -> dict[str, str]:
    """What `SETTINGS` says of folders that a model has."""
    return {name: name for name in names}


def find(folder: Path) -> dict[Own, Path]:
    """The folders of ours that a model names.

    Raises:
        SimjaxError: One leads out of the model's folder, or is not there.
    """
    path = folder / SETTINGS
    if not os.path.lexists(path):
        return {}
    settings = read_json_object(path)
    found: dict[Own, Path] = {}
    for name in get_args(Own):
        if settings.get(name) is None:
            continue
        place = inside(folder, settings[name], path)
        if not place.is_dir():
            raise SimjaxError(f"{path}: {name} is {settings[name]!r}, and there is no such folder")
        found[name] = place
    return found


def inside(folder: Path, name: Any, path: Path) -> Path:
    """The folder of a module; no name and no link in it leads out of the model's folder.

    Args:
        folder: The model's.
        name: What a file of it says.
        path: That file.

    Raises:
        SimjaxError: It is no name, or leads elsewhere.
    """
    if not isinstance(name, str) or "\0" in name:
        raise SimjaxError(f"{path}: module path {name!r} is no name")
    place = folder / name
    try:
        real = place.resolve()
    except (OSError, RuntimeError) as error:
        raise SimjaxError(f"{path}: module path {name!r} leads nowhere") from error
    if not real.is_relative_to(folder.resolve()):
        raise SimjaxError(f"{path}: module path {name!r} leaves the folder")
    return place
