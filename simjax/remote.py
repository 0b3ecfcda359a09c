"""Places that are no file system of this machine: gs://, s3:// and what else fsspec reaches."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simjax.errors import SimjaxError, UsageError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.S)
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
        raise UsageError(f"{what} is {as_url(path)}: must be on a file system here; {instead}")


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

    Raises:
        SimjaxError: one was raised.
    """
    try:
        yield
    except SimjaxError:
        raise
    except FileNotFoundError as error:
        raise SimjaxError(f"{url}: no such file") from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SimjaxError(f"{url}: cannot {what} ({reason})") from error


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
    files = {
        f"{place}/{path.relative_to(folder).as_posix()}": path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    model, ours = f"{place}/{MODEL}", f"{place}/{OURS}"
    with complaints(url, "be written"):
        old = set(filesystem.find(place)) if filesystem.exists(place) else set()
        _check_target(filesystem, place, url, old, overwrite=overwrite)
        if model in old:
            filesystem.rm_file(model)
        for target in sorted(files.keys() - {model}, key=lambda target: target != ours):
            _upload(filesystem, files[target], target, url)
        for stale in sorted(old - files.keys()):
            filesystem.rm_file(stale)
        _upload(filesystem, files[model], model, url)


def _upload(filesystem: AbstractFileSystem, path: Path, target: str, url: str) -> None:
    from fsspec.implementations.local import LocalFileSystem

    if isinstance(filesystem, LocalFileSystem):  # others have no folders, or make them
        filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
    filesystem.put_file(str(path), target)
    if filesystem.size(target) != path.stat().st_size:
        raise SimjaxError(f"{url}: {path.name} came there incomplete; export again")


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
