"""Drafts: what is written beside its target, and gets the target's name when it is whole.

A killed command leaves its draft, and one that was about to replace a folder may have moved that
aside. The names of both say which process of which machine they are of, so that the next command
for the same target can clear up.
"""

from __future__ import annotations

import glob
import os
import shutil
import socket
from pathlib import Path

from simjax.errors import SimjaxError

_DRAFT, _ASIDE = "partial", "old"


def draft_of(target: Path) -> Path:
    """Where this process writes what is to become ``target``: a hidden name beside it."""
    return _beside(target, _DRAFT)


def move_into_place(draft: Path, folder: Path) -> None:
    """Gives a folder that is whole its name; one that is there is removed after that, not before.

    Raises:
        OSError: it cannot be moved; what was there is there still.
    """
    if not folder.exists() or not any(folder.iterdir()):
        os.replace(draft, folder)
        return
    # A folder cannot replace a full one in one step: the old one steps aside first.
    aside = _beside(folder, _ASIDE)
    os.replace(folder, aside)
    try:
        os.replace(draft, folder)
    except OSError:
        os.replace(aside, folder)
        raise
    # As a draft, what is half removed is never taken for what was there before.
    os.replace(aside, draft)
    shutil.rmtree(draft)


def recover(target: Path, *, alone: bool = False) -> None:
    """Clears up after commands that were killed while they wrote ``target``.

    A folder that had stepped aside for a new one comes back, unless that one is in place. What is
    of a process that runs, or of another machine's, stays.

    Args:
        target: a file or a folder.
        alone: nobody else can be writing there now, so that nothing of anybody's stays.

    Raises:
        SimjaxError: what is left cannot be moved or removed.
    """
    try:
        for aside in _left(target, _ASIDE, alone=alone):
            if target.exists() and any(target.iterdir()):
                shutil.rmtree(aside)
            else:
                os.replace(aside, target)
        for draft in _left(target, _DRAFT, alone=alone):
            if draft.is_dir():
                shutil.rmtree(draft)
            else:
                draft.unlink()
    except OSError as error:
        raise SimjaxError(f"{target}: cannot be cleared up ({error.strerror})") from error


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}-{socket.gethostname()}-{os.getpid()}")


def _left(target: Path, kind: str, *, alone: bool) -> list[Path]:
    prefix = f".{target.name}.{kind}-"
    found = []
    for path in target.parent.glob(f"{glob.escape(prefix)}*"):
        machine, _, process = path.name.removeprefix(prefix).rpartition("-")
        if alone or (machine == socket.gethostname() and not _runs(process)):
            found.append(path)
    return found


def _runs(process: str) -> bool:
    """Whether there is a process of that number, or may be."""
    if process == str(os.getpid()):
        return False  # a namesake's: in containers every first process has the same number
    if os.name != "posix" or not process.isdecimal():
        return True  # elsewhere signal 0 is no question
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
