"""The folder of a run: told apart from other folders, and trained in by one run at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from simjax.errors import SimjaxError
from simjax.processes import lock

MARK = "run.lock"
"""A run makes this file before anything else, and holds a lock on it while it trains."""


def open_folder(output: str) -> Path:
    """The output folder, made if it is missing.

    Raises:
        SimjaxError: It holds something else than a run, or only what a run has left for use.
    """
    folder = Path(output).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Process 0 may already have been here.
        found = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise SimjaxError(
            f"{folder}: cannot be the output folder ({error.strerror}); choose another `output`"
        ) from error
    if found and MARK not in found:
        raise SimjaxError(
            f"{folder}: holds files that are not of a run; choose another folder for `output`"
        )
    if "export" in found and not has_checkpoints(folder):
        raise SimjaxError(
            f"{folder}: holds the export of a run whose checkpoints are gone, which a new run "
            "would replace; choose another folder for `output`, or move the export away"
        )
    return folder


def has_checkpoints(folder: Path) -> bool:
    """Whether a step of the run was ever saved."""
    return any(path.name.isdecimal() for path in folder.glob("checkpoints/*"))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other runs out of the folder until the block ends; process 0 does it for all.

    The lock ends with the process, however that ends. Where the file system or the platform has
    no locks, there is none.

    Raises:
        SimjaxError: Another run is training there.
    """
    if jax.process_index() != 0:
        yield
        return
    path = folder / MARK
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise SimjaxError(f"{path}: cannot be written ({error.strerror})") from error
    try:
        if not lock.acquired(file):
            raise SimjaxError(
                f"{folder}: another process is training in this folder; wait for its end, or "
                "choose another folder for `output`"
            )
        yield
    finally:
        os.close(file)
