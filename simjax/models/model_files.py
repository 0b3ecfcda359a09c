"""Files of a model folder, which anybody may have made: where they lie, what they are, how big."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from simjax.errors import SimjaxError

SETTINGS_BYTES = 16 << 20
"""Most bytes of a file of settings, and of the header of a safetensors file."""

VOCABULARY_BYTES = 256 << 20
"""Most bytes of a file that a tokenizer is made of; those of large multilingual ones take 40 MB."""

_ARCHIVES = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x80\x02": "a pickle",
    b"\x89HDF": "HDF5",
}
_ENDINGS = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".nemo")


def check_file(path: Path, most_bytes: int | None = None) -> None:
    """Refuses what is not safe to open.

    A symbolic link may lead to another place in the file's own folder or, in a copy of a model in
    the Hugging Face cache, to that model's blobs.

    Args:
        path: The file. Links of the folders above it are the caller's to judge.
        most_bytes: Its largest size; None allows any.

    Raises:
        SimjaxError: It is missing, leads out of its folder, is no plain file, or is too large.
    """
    try:
        real = path.resolve(strict=True)
        status = real.stat()
    except (OSError, RuntimeError) as error:  # the latter of links in a circle
        reason = getattr(error, "strerror", None) or "links in a circle"
        raise SimjaxError(f"{path}: cannot be read ({reason})") from error
    if not any(real.is_relative_to(home) for home in _homes(path.parent.resolve())):
        raise SimjaxError(
            f"{path}: a link that leads out of its folder, to {real}, which is not followed; put "
            "a copy of that file in its place if you trust it"
        )
    if not stat.S_ISREG(status.st_mode):
        raise SimjaxError(f"{path}: cannot be read (no plain file)")
    if most_bytes is not None and status.st_size > most_bytes:
        raise SimjaxError(
            f"{path}: has {status.st_size:,} bytes; no such file of a model is larger than "
            f"{most_bytes:,}"
        )


def _homes(folder: Path) -> Iterator[Path]:
    yield folder
    for parent in folder.parents:  # models--OWNER--NAME/snapshots/REVISION/...
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            blobs = parent.parent / "blobs"
            if not blobs.is_symlink():  # a folder may only look like the cache
                yield blobs


def check_safetensors(path: Path) -> None:
    """Refuses a file whose beginning is not that of a safetensors file, before it is parsed.

    Raises:
        SimjaxError: As `check_file`; or it is of another format, or its header has no room in it
            or is larger than that of any model.
    """
    check_file(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise SimjaxError(f"{path}: cannot be read ({error.strerror})") from error
    header, brace = int.from_bytes(start[:8], "little"), start[8:]
    if header > size - 8 or brace != b"{":
        # Only now: the length of a true header may begin with any of these bytes.
        for magic, kind in _ARCHIVES.items():
            if start.startswith(magic):
                raise SimjaxError(f"{path}: is {kind}, not safetensors; only safetensors are read")
        if start.startswith(b"version h"):
            raise SimjaxError(f"{path}: is a pointer of Git LFS; fetch the file with git lfs pull")
    if len(start) < 8 or header > size - 8:
        raise SimjaxError(
            f"{path}: cannot be read as safetensors (a header of {header:,} bytes in a file of "
            f"{size:,}); it was cut off or is something else"
        )
    if header > SETTINGS_BYTES:
        raise SimjaxError(
            f"{path}: has a header of {header:,} bytes; that of no model is larger than "
            f"{SETTINGS_BYTES:,}"
        )


def is_archive(name: str) -> bool:
    """Whether a file's name is that of an archive."""
    return name.lower().endswith(_ENDINGS)
