"""The steps in a folder of checkpoints, each a sub-folder that is named by its number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from simjax.checkpoint import manifest

_ORBAX_TEMPORARY = ".orbax-checkpoint-tmp"
_DISCARDED = ".discarded"
_SCORES = "scores.json"
"""Metrics that were not known when the step was saved; counts once its sum is recorded."""


def numbered(folder: Path) -> list[int]:
    """All that may be a step by its name, ascending."""
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if path.name.isdecimal()]
    return sorted(int(name) for name in names if name == str(int(name)))


def complete(folder: Path) -> list[int]:
    """Those that were complete once, whatever they lack now.

    What they lack is told when they are checked or restored, not passed over in silence.
    """
    return [step for step in numbered(folder) if (folder / str(step) / manifest.NAME).exists()]


def clean(folder: Path) -> None:
    """Removes what saves that were cut off have left."""
    for path in folder.iterdir():
        if _ORBAX_TEMPORARY in path.name or path.name.endswith(_DISCARDED):
            _remove(path)
        elif path.name.endswith(manifest.PARTIAL):
            path.unlink()
    for step in complete(folder):
        for path in (folder / str(step)).glob(f"*{manifest.PARTIAL}"):
            path.unlink()


def discard(path: Path) -> None:
    """Deletes a step; under another name first, so that half of one never looks like a step."""
    doomed = path.with_name(path.name + _DISCARDED)
    path.rename(doomed)
    _remove(doomed)


def discarded(path: Path) -> bool:
    """Whether a step could be deleted: a network's folder may refuse while somebody reads it."""
    try:
        discard(path)
    except OSError:
        return not path.exists()
    return True


def write_scores(path: Path, metrics: Mapping[str, float]) -> None:
    """Adds metrics to a step that is complete, at one stroke."""
    manifest.write_json(path / _SCORES, metrics)
    manifest.add(path, _SCORES)


def read_scores(path: Path) -> dict[str, float] | None:
    """The metrics that were added to a step, None where there were none.

    Raises:
        Damaged: The step's sums cannot be read.
        OSError: They say that there are, and there are none.
        ValueError: They are no JSON.
    """
    if _SCORES not in manifest.read(path):
        return None
    found: dict[str, float] = json.loads((path / _SCORES).read_text(encoding="utf-8"))
    return found


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
