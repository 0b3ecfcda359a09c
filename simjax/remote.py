"""Places that are no file system of this machine: gs://, s3:// and what else fsspec reaches."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from simjax.errors import SimjaxError, UsageError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.S)
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:/+)([^/\s]*)@")
_QUERY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:/+[^\s\"'?]*)\?[\w.%-]+=[^\s\"')]*")
MODEL = "config.json"
"""What makes a folder a model: removed first, and written last."""
OURS = "config_sentence_transformers.json"
"""What says that simjax exported it: written first."""


def is_url(path: object) -> bool:
    """Whether a path begins with a scheme, as gs:// and s3:// do."""
    return _URL.match(str(path)) is not None


def as_url(path: object) -> str:
    """A URL as it was written, also after `Path` has made one slash of two."""
    found = _URL.fullmatch(str(path))
    if found is None:
        return str(path)
    scheme, rest = found.groups()
    return f"{scheme}://{'/' if scheme in ('file', 'local') else ''}{rest}"


def without_secrets(text: object) -> str:
    """A text without the users, passwords and queries of the URLs in it, for messages."""
    return _QUERY.sub(r"\1", _USER.sub(r"\1", str(text)))


def check_local(what: str, path: object, instead: str = "mount the bucket (gcsfuse, s3fs)") -> None:
    """Refuse a URL where a folder or file of this machine is needed.

    Args:
        what: Key or argument, for the message.
        path: What was given; None is nothing.
        instead: What to do.

    Raises:
        UsageError: It is one.
    """
    if is_url(path):
        url = without_secrets(as_url(path))
        raise UsageError(f"{what} is {url}: must be on a file system here; {instead}")


def path_here(text: str) -> Path:
    """An argument type: a path that is written on this machine."""
    if is_url(text):
        raise argparse.ArgumentTypeError(f"{text} is a URL; name a place on a file system here")
    return Path(text)


def reached(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL and the path in it, with nothing remembered of earlier looks.

    Raises:
        SimjaxError: its scheme is unknown, a library for it is missing, or it is not reached.
    """
    from fsspec.core import url_to_fs

    with complaints(url, "be reached"):
        filesystem, path = url_to_fs(url)
        filesystem.invalidate_cache()
    return filesystem, path


@contextmanager
def complaints(url: str, what: str) -> Iterator[None]:
    """Errors of file systems, which have no common base, as one line about a URL.

    Args:
        url: It, as it was written; the line does not tell its secrets.
        what: What cannot be done when one is raised.

    Raises:
        SimjaxError: one was raised.
    """
    try:
        yield
    except SimjaxError:
        raise
    except Exception as error:
        name = without_secrets(url)
        if isinstance(error, FileNotFoundError) and what == "be read":
            raise SimjaxError(f"{name}: no such file") from error
        raise SimjaxError(f"{name}: cannot {what} ({reason(error, url)})") from error


def reason(error: BaseException, url: str) -> str:
    """What an error says in a line, without the secrets of the URL that it is about."""
    line = without_secrets(" ".join(str(error).split()) or type(error).__name__)
    found = _USER.match(url)
    for secret in found[2].split(":") if found else ():
        for said in filter(None, (secret, unquote(secret))):
            line = re.sub(rf"(?<!\w){re.escape(said)}(?!\w)", "***", line)
    return line if len(line) <= 300 else line[:297] + "..."


def upload_model(folder: Path, url: str, *, overwrite: bool) -> None:
    """Copy the folder of an exported model to a URL.

    Files are no folder there that could be put in place as a whole: `config.json`, without which
    nothing loads a model, is removed first and written last.

    Args:
        folder: the model, here.
        url: the folder to be.
        overwrite: replace a model that simjax exported there before (never anything else).

    Raises:
        SimjaxError: there is something already, or it cannot be written.
    """
    filesystem, place = reached(url)
    place = place.rstrip("/")
    name = without_secrets(url)
    files = {
        f"{place}/{path.relative_to(folder).as_posix()}": path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    model, ours = f"{place}/{MODEL}", f"{place}/{OURS}"
    with complaints(url, "be written"):
        old = set(filesystem.find(place)) if filesystem.exists(place) else set()
        _check_target(filesystem, place, name, old, overwrite=overwrite)
        if model in old:
            filesystem.rm_file(model)
        upload(filesystem, {ours: files[ours]} if ours in files else {})
        rest = files.keys() - {ours, model}
        upload(filesystem, {target: files[target] for target in sorted(rest)})
        for stale in sorted(old - files.keys()):
            filesystem.rm_file(stale)
        upload(filesystem, {model: files[model]})


def upload(filesystem: AbstractFileSystem, files: Mapping[str, Path]) -> None:
    """Copies files to where they belong, side by side where the file system can.

    Args:
        filesystem: That of the targets.
        files: By target.

    Raises:
        OSError: One has come there incomplete. What else is raised is the file system's own.
    """
    from fsspec.implementations.local import LocalFileSystem

    if isinstance(filesystem, LocalFileSystem):  # others have no folders, or make them
        for folder in {target.rpartition("/")[0] for target in files}:
            filesystem.makedirs(folder, exist_ok=True)
    filesystem.put([str(path) for path in files.values()], list(files))
    for path, size in zip(files.values(), filesystem.sizes(list(files)), strict=True):
        if size != path.stat().st_size:
            raise OSError(f"{path.name} came there incomplete")


def _check_target(filesystem: Any, place: str, url: str, old: set[str], *, overwrite: bool) -> None:
    if not old:
        return
    if place in old:
        raise SimjaxError(f"{url}: is a file; choose a folder for the model")
    if not overwrite:
        raise SimjaxError(
            f"{url}: is not empty; choose another, or --overwrite (overwrite=True) a model"
        )
    try:
        about = filesystem.cat_file(f"{place}/config_sentence_transformers.json")
        ours = "simjax" in json.loads(about)["__version__"]
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise SimjaxError(
            f"{url}: holds something that simjax did not export, which is never overwritten;"
            " choose another folder"
        )
