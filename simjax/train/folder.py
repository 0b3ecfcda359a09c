"""The folder of a run: told apart from other folders, and trained in by one run at a time."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from simjax.errors import SimjaxError
from simjax.processes import lock, roll_call, shared_folder
from simjax.processes.roll_call import Disagreement

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
    no locks, there is none, which is told on standard error. Where there are several processes,
    the file then holds a word of this start's own.

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
        found = lock.tried(file)
        if found == "none":
            _warn_of_no_lock(folder)
        if found == "taken":
            raise SimjaxError(
                f"{folder}: another process is training in this folder; wait for its end, or "
                "choose another folder for `output`"
            )
        if jax.process_count() > 1:
            _sign(file, path)
        yield
    finally:
        os.close(file)


def check_shared(folder: Path) -> None:
    """Makes sure that all processes have the same folder; all call this together, in `locked`.

    Else the others' parts of a checkpoint would lie where nobody looks for them.

    Raises:
        Disagreement: On every process: who has another folder there than process 0.
    """
    path = folder / MARK
    leads = jax.process_index() == 0
    (_, signed), *_ = roll_call.answers("lock", _read(path) if leads else "")
    same = shared_folder.seen(lambda: _read(path) == signed)
    said = roll_call.answers("folder", "same" if same else "another")
    blind = [who for who, found in said if found != "same"]
    if blind:
        more = f" and {len(blind) - 5} more" if len(blind) > 5 else ""
        raise Disagreement(
            f"{folder}: what process 0 writes there is not seen by {', '.join(blind[:5])}{more}; "
            "`output` has to lie where all processes see it"
        )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _sign(file: int, path: Path) -> None:
    # Not by another descriptor: some file systems let go of a lock when any of them is closed.
    try:
        os.ftruncate(file, 0)
        os.write(file, f"{secrets.token_hex(8)}\n".encode())
        os.fsync(file)
    except OSError as error:
        raise SimjaxError(f"{path}: cannot be written ({error.strerror})") from error


def _warn_of_no_lock(folder: Path) -> None:
    print(
        f"simjax: {folder}: there are no locks on this file system, so that a second run in this "
        "folder would not be refused: do not start one",
        file=sys.stderr,
        flush=True,
    )
