"""What lies in a mirror of a run's checkpoints: a folder for each step.

    simjax_mirror                       which start of the run writes there
    500/checkpoints/500/...             files by their names in the run folder: the checkpoint,
    500/config.yaml, metrics.jsonl ...  and what else going on needs
    500/simjax_whole.json               of which run it is, the best step, and all their SHA-256

Object stores cannot rename. So the last of these comes when the others are there, and goes before
them: a step without it does not count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from simjax import remote
from simjax.checkpoint import manifest
from simjax.errors import SimjaxError, UsageError

MARK = "simjax_mirror"
"""Written at each start: the folder is a mirror, and this is the start that writes there."""
WHOLE = "simjax_whole.json"
"""Of a step: written last and removed first."""
STEPS = "checkpoints"
"""Folder of a run folder."""


@dataclass(frozen=True)
class Whole:
    """What the last file of a step says.

    Attributes:
        identity: Of the run, as in its `run.json`.
        best: The best step when this one was saved; it is in the mirror as well.
        sums: SHA-256 of the step's files, by their names in the run folder.
    """

    identity: dict[str, Any]
    best: int | None
    sums: dict[str, str]


def _read(text: bytes, step: int) -> Whole:
    """Raises `manifest.Damaged` if it says no such thing, or names what is no file of the step."""
    try:
        said = json.loads(text)
        best = None if said["best"] is None else int(said["best"])
        sums = {str(name): str(digest) for name, digest in said["sums"].items()}
        found = Whole(dict(said["identity"]), best, sums)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise manifest.Damaged(f"cannot be read ({error})") from error
    for name in sums:
        parts = PurePosixPath(name).parts
        of_another = parts[:1] == (STEPS,) and parts[1:2] != (str(step),)
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or of_another:
            raise manifest.Damaged(f"names {name!r}, which is no file of the step")
    if f"{STEPS}/{step}/{manifest.NAME}" not in sums:
        raise manifest.Damaged("names no checkpoint")
    return found


class Place:
    """The mirror as its file system shows it. Made anew for each use, so that it sees changes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = remote.without_secrets(url)
        self._system, path = remote.reached(url)
        self._path = path.rstrip("/")

    def check_apart(self, folder: Path) -> None:
        """Raises `UsageError` if one of the two lies in the other."""
        from fsspec.implementations.local import LocalFileSystem

        if isinstance(self._system, LocalFileSystem):
            mine, theirs = Path(self._path).resolve(), folder.resolve()
            if mine.is_relative_to(theirs) or theirs.is_relative_to(mine):
                raise UsageError(
                    f"checkpoint.mirror is {self.name} and the run folder {folder}: neither may "
                    "lie in the other; choose another place"
                )

    def names(self) -> set[str]:
        """What is at its top."""
        try:
            found = {path.rstrip("/") for path in self._system.ls(self._path, detail=False)}
        except FileNotFoundError:
            return set()
        if found == {self._path} and self._system.isfile(self._path):
            raise SimjaxError(f"{self.name}: is a file; choose another checkpoint.mirror")
        return {path.rpartition("/")[2] for path in found - {self._path}}

    def steps(self) -> list[int]:
        """All that may be a step by its name."""
        return sorted(int(name) for name in self.names() if is_step(name))

    def owner(self) -> bytes:
        """Which start of the run writes there."""
        return self._system.cat_file(f"{self._path}/{MARK}")

    def sign(self, owner: bytes) -> None:
        """Lets a start of the run write there, and no other."""
        self._write(MARK, owner)

    def probe(self) -> None:
        """Writes and deletes a file that nothing takes note of."""
        self._write(f"{MARK}_probe", b"")
        self._system.rm_file(f"{self._path}/{MARK}_probe")

    def whole(self, step: int) -> Whole:
        """What the last file of a step says.

        Raises:
            FileNotFoundError: There is none.
            Damaged: It is not what was written.
        """
        try:
            return _read(self._system.cat_file(f"{self._path}/{step}/{WHOLE}"), step)
        except manifest.Damaged as error:
            raise manifest.Damaged(f"{self.name}/{step}/{WHOLE}: {error}") from error

    def get(self, step: int, sums: Mapping[str, str], folder: Path) -> None:
        """Copies files of a step into a folder here; raises `manifest.Damaged`."""
        here = [folder / name for name in sums]
        for parent in {path.parent for path in here}:
            parent.mkdir(parents=True, exist_ok=True)
        there = [f"{self._path}/{step}/{name}" for name in sums]
        # The first file that is not there is named below.
        with remote.complaints(self.url, "be read"), suppress(FileNotFoundError):
            self._system.get(there, [str(path) for path in here])
        try:
            manifest.compare(folder, sums)
        except manifest.Damaged as error:
            told = str(error).replace(str(folder), f"{self.name}/{step}")
            raise manifest.Damaged(told) from error

    def put(self, step: int, files: Mapping[str, Path]) -> None:
        """Copies the files of a step there, by their names in the run folder."""
        remote.upload(self._system, {f"{self._path}/{step}/{n}": p for n, p in files.items()})

    def mark(self, step: int, whole: Whole) -> None:
        """Says of a step that all of its files are there."""
        self._write(f"{step}/{WHOLE}", json.dumps(asdict(whole), indent=1).encode())

    def is_marked(self, step: int) -> bool:
        """Whether a step says that all of its files are there."""
        self._system.invalidate_cache()
        return bool(self._system.exists(f"{self._path}/{step}/{WHOLE}"))

    def remove(self, step: int) -> None:
        """Deletes a step, whole or not."""
        with suppress(FileNotFoundError):
            self._system.rm_file(f"{self._path}/{step}/{WHOLE}")
        self._system.invalidate_cache()
        with suppress(FileNotFoundError):
            self._system.rm(f"{self._path}/{step}", recursive=True)

    def _write(self, name: str, content: bytes) -> None:
        with TemporaryDirectory() as folder:
            draft = Path(folder, "draft")
            draft.write_bytes(content)
            remote.upload(self._system, {f"{self._path}/{name}": draft})


def is_step(name: str) -> bool:
    """Whether a folder of that name is a step."""
    return name.isdecimal() and name == str(int(name))
