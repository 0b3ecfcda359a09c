"""Files behind URLs, copied into the cache, where every later start finds them.

A copy is made again when what the file system tells of the file (size, time, version) is not what
it told when the copy was made. What a copy holds then counts for a store's fingerprint like any
file's content.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import logging
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simjax import remote
from simjax.data.sources import LIBRARIES, Source
from simjax.errors import SimjaxError, UsageError
from simjax.processes import lock

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

FOLDER = "remote"
"""Of copies, in the cache."""
STATE = ".copied.json"
_DRAFT = ".draft"
_OFTEN = 5.0
"""Seconds after which it is noted what has come so far."""


@dataclass(frozen=True)
class _File:
    """A remote file, with a hash of all that its file system tells of it."""

    path: str
    state: str
    size: int | None

    @classmethod
    def of(cls, path: str, about: dict[str, Any]) -> _File:
        told = sorted((str(key), str(value)) for key, value in about.items())
        return cls(path, hashlib.sha256(repr(told).encode()).hexdigest(), about.get("size"))


def copied(source: Source, cache: Path) -> Source:
    """The source itself, or where its path is a URL the one of copies in `cache`.

    The URL may be a pattern. Of processes that share the cache one copies while the others wait.

    Raises:
        SimjaxError: there is no such file, it cannot be read, or it changes while it is copied.
        UsageError: the source is no file.
    """
    if source.format == "builtin" or not remote.is_url(source.path):
        return source
    url = remote.as_url(source.path)
    if source.format in LIBRARIES:
        raise UsageError(
            f"data.source.path is {url}: a data set of {source.format} is read from a folder of "
            "this machine; copy it"
        )
    folder = cache.absolute() / FOLDER / hashlib.sha256(url.encode()).hexdigest()[:32]
    try:
        with lock.waited_for(folder.with_suffix(".lock"), _say_waiting):
            folder.mkdir(parents=True, exist_ok=True)
            names = _copy_all(url, folder)
    except OSError as error:
        raise SimjaxError(
            f"{folder}: {url} cannot be copied here ({error.strerror or error}); choose another "
            "folder with data.cache"
        ) from error
    inside = Path(glob.escape(str(folder)))
    path = inside / "**" / "*" if glob.has_magic(url) else folder / names[0]
    return dataclasses.replace(source, path=str(path))


def _say_waiting(path: Path) -> None:
    logging.getLogger(__name__).warning("waiting for another process that copies files (%s)", path)


def _copy_all(url: str, folder: Path) -> list[str]:
    """Bring the copies in a folder up to date, and return their names in it."""
    filesystem, pattern = remote.reached(url)
    found = _listed(filesystem, pattern, url)
    note = folder / STATE
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError, TypeError):
        known = dict(json.loads(note.read_text(encoding="utf-8")))
    anew, saved = False, time.monotonic()
    for name, file in found.items():
        target = folder / name
        if known.get(name) == [file.state, _size(target)]:
            continue
        anew = True
        draft = folder / _DRAFT
        with remote.complaints(url, "be read"):
            filesystem.get_file(file.path, str(draft))
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        if file.size is not None and file.size != _size(draft):
            raise SimjaxError(f"{url}: {name} came here incomplete; start again")
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(target)
        known[name] = [file.state, _size(target)]
        if time.monotonic() - saved > _OFTEN:
            _save(note, known)
            saved = time.monotonic()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            with suppress(OSError):  # there is something in it
                path.rmdir()
        elif path != note and path.relative_to(folder).as_posix() not in found:
            path.unlink()
    _save(note, {name: known[name] for name in found})
    if anew:
        filesystem.invalidate_cache()
        if _listed(filesystem, pattern, url) != found:
            raise SimjaxError(f"{url}: changed while it was copied; start again")
    return list(found)


def _save(note: Path, known: dict[str, Any]) -> None:
    draft = note.with_name(_DRAFT)
    draft.write_text(json.dumps(known), encoding="utf-8")
    draft.replace(note)


def _listed(filesystem: AbstractFileSystem, pattern: str, url: str) -> dict[str, _File]:
    """The files, by their names below the last folder without a wildcard.

    As in patterns of paths, names that begin with a dot do not count.
    """
    with remote.complaints(url, "be read"):
        if not glob.has_magic(pattern):
            path = next((p for p in _plain_or_gzip(pattern) if filesystem.exists(p)), pattern)
            about = filesystem.info(path)
            if about["type"] != "file":
                raise SimjaxError(f"{url}: is a folder; name a file in it, or a pattern")
            return {path.rpartition("/")[2]: _File.of(path, about)}
        folder = re.split(r"[*?[]", pattern)[0].rpartition("/")[0]
        found = {}
        for path, about in sorted(filesystem.glob(pattern, detail=True).items()):
            name = path.removeprefix(folder).lstrip("/")
            hidden = any(part.startswith(".") for part in name.split("/"))
            if about["type"] == "file" and not hidden:
                found[name] = _File.of(path, about)
    if not found:
        raise SimjaxError(f"{url}: no file matches this pattern")
    return found


def _plain_or_gzip(path: str) -> tuple[str, ...]:
    plain = path.removesuffix(".gz")
    return (path, plain, f"{plain}.gz")


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
