"""Tokenise once: token ids of every text of a source, memory-mapped from a cache folder.

A store is a folder named by its fingerprint, a SHA-256 over the source's files, the tokenizer and
the options. It is written beside its place and renamed into it, with `store.json` written last;
a folder whose `store.json` is missing or does not fit its files is no store and is built again.
Of processes that want the same store one builds it while the others wait; where the file system has
no locks, each writes a folder of its own, and one of them stays.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int, UInt64

from simjax.data import file_digests, sources, store_writer
from simjax.data.disk_arrays import gather, open_array
from simjax.data.engine import copy_engine, written
from simjax.data.packing import Tokens
from simjax.data.store_writer import ARRAYS, MARKER, TOKENS
from simjax.errors import SimjaxError, UsageError
from simjax.processes import lock

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VERSION = 2
"""Raised when stores or the reading of sources change, so that old stores are left alone."""

ABANDONED = 24 * 3600
"""Seconds without a change after which any unfinished folder is that of a builder that died."""
Files: TypeAlias = list[tuple[Path, str]]
"""As of `sources.files`."""
_LOCK = re.compile(r"[0-9a-f]{32}\.lock")
_DRAFT = re.compile(r"[0-9a-f]{32}\.(?:(.+)-)?[0-9a-f]+\.tmp")


@dataclass(frozen=True)
class TokenStore:
    """The texts of a source as token ids, and the examples made of them.

    The arrays of a store that was opened are memory maps; `disk_arrays.gather` reads them.
    """

    tokens: Tokens
    """Tokens of all texts end to end, special tokens included, memory-mapped."""
    offsets: Int[np.ndarray, "texts+1"]
    """Text `i` is `tokens[offsets[i]:offsets[i + 1]]`."""
    text_ids: Int[np.ndarray, "texts"]
    """Dense id of each text's normalised form (`identity.normalised`), by first appearance. Prompts
    do not count."""
    digests: UInt64[np.ndarray, "ids 2"]
    """128 bits of a hash of the normalised form of each id, by which stores are joined."""
    examples: Int[np.ndarray, "N V"]
    """Texts of each example: anchor, positives, hard negatives; `NO_TEXT` where there is none."""
    labels: Int[np.ndarray, "N"]
    """Class of each example, -1 where there is none."""
    scores: Float[np.ndarray, "N"]
    """Score of each example, NaN where there is none."""
    positives: int
    """How many of the views after the anchor are positives."""
    label_names: tuple[str, ...]
    """What the labels stand for: `Source.named_classes`, or by first appearance."""
    skipped: int
    """Examples left out because a text that they need is empty."""
    repeated: int
    """Examples left out because an earlier one has the same texts, class and score."""
    fingerprint: str
    sizes: tuple[int, ...]
    """Examples of each source, which follow each other."""
    classes_named: bool = False
    """Whether the recipe names the classes, so that other sources may have the same."""

    def lengths(self, texts: Int[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
        """Tokens of texts, by their numbers."""
        begin, end = gather(self.offsets, np.stack([texts, texts + 1]))
        return (end - begin).astype(np.int32)


def build(
    source: sources.Source,
    root: Path | None,
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_length: int,
    cache: Path,
    drop_duplicates: bool = False,
    progress: Callable[[int], None] | None = None,
) -> TokenStore:
    """The store of a source under a tokenizer: opened if it is in the cache, else built.

    Args:
        source: what to read.
        root: the folder that the source's path is relative to.
        tokenizer: a fast tokenizer; its own padding and truncation settings do not count.
        max_length: tokens of a text, special tokens included; longer texts are cut.
        cache: the folder that stores lie in.
        drop_duplicates: leave out examples that repeat an earlier one.
        progress: called after each chunk with the number of examples done so far.

    Raises:
        SimjaxError: the source is faulty or holds no examples, or the cache cannot be written.
        UsageError: `max_length` leaves no room for text.
    """
    backend = copy_engine(tokenizer)
    special = backend.num_special_tokens_to_add(is_pair=False)
    if max_length <= special:
        raise UsageError(
            f"max_length {max_length} leaves no room for text: the tokenizer adds {special} "
            "special tokens"
        )
    side = tokenizer.truncation_side
    options = [written(backend), max_length, side, drop_duplicates]
    files = sources.files(source, root)
    state = _state(files)
    fingerprint = _fingerprint(source, files, options, cache)
    backend.enable_truncation(max_length, direction=side)

    def write(folder: Path) -> None:
        store_writer.write(folder, source, root, backend, fingerprint, drop_duplicates, progress)
        # What was read must be what the fingerprint is of.
        if _state(sources.files(source, root)) != state:
            raise store_writer.changed(source, root)

    return stored(cache, fingerprint, write)


def stored(
    cache: Path, fingerprint: str, write: Callable[[Path], None], tokens: Tokens | None = None
) -> TokenStore:
    """The store of a fingerprint: opened if it is in the cache, else written.

    Args:
        cache: the folder that stores lie in.
        fingerprint: of the store.
        write: writes it into an empty folder, as `store_writer.write` does.
        tokens: those of the store, where it has none of its own.

    Raises:
        SimjaxError: the cache cannot be written.
    """
    folder = cache / fingerprint
    store = _open(folder, fingerprint, tokens)
    if store is not None:
        return store
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with lock.waited_for(cache / f"{fingerprint}.lock", _say_waiting) as alone:
            store = _open(folder, fingerprint, tokens)
            if store is not None:
                return store
            _remove_abandoned(cache, fingerprint if alone else None)
            draft = _draft(cache, fingerprint)
            draft.mkdir()
            try:
                write(draft)
                return _publish(draft, folder, fingerprint, tokens)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise SimjaxError(
            f"{cache}: the token store cannot be written: {error.strerror or error}; "
            "choose another folder with data.cache"
        ) from error


def _say_waiting(path: Path) -> None:
    logging.getLogger(__name__).warning("waiting for another process that tokenises (%s)", path)


def _draft(cache: Path, fingerprint: str) -> Path:
    """A folder to write in, whose name says on which machine."""
    return cache / f"{fingerprint}.{socket.gethostname()}-{secrets.token_hex(8)}.tmp"


def _state(files: Files) -> list[tuple[Path, list[int]]]:
    """Files with their sizes and times."""
    found = []
    for path, _ in files:
        try:
            found.append((path, file_digests.times(path)))
        except OSError as error:
            raise SimjaxError(f"{path}: {error.strerror or error}") from error
    return found


def _fingerprint(source: sources.Source, files: Files, options: list[Any], cache: Path) -> str:
    """Same fingerprint, same store: contents count, names and times of files do not."""
    digest = hashlib.sha256(f"simjax token store {VERSION}\n".encode())
    decisive = [
        source.path if source.format == "builtin" else None,
        *(source.subset, source.split),
        *(source.anchor, source.positives, source.negatives, source.label, source.score),
        *(source.anchor_prefix, source.document_prefix),
        # Only where they are given, so that older stores without them stay valid, and runs on them.
        *(["classes", list(source.classes)] if source.classes else []),
        *([source.score_range] if source.score_range else []),
        *(["label_above", source.label_above] if source.label_above is not None else []),
    ]
    digest.update(json.dumps([decisive, options]).encode())
    for path, format_ in files:
        try:
            content = file_digests.content_digest(path, cache)
        except OSError as error:
            raise SimjaxError(f"{path}: {error.strerror or error}") from error
        digest.update(f"{format_} {content}\n".encode())
    return digest.hexdigest()[:32]


def _open(folder: Path, fingerprint: str, tokens: Tokens | None = None) -> TokenStore | None:
    """The store in `folder`, or None if there is no whole one."""
    try:
        marker: dict[str, Any] = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in marker["bytes"]}
        if marker["fingerprint"] != fingerprint or sizes != marker["bytes"]:
            return None
        loaded = {name: open_array(folder / f"{name}.npy") for name in ARRAYS}
        if tokens is None:
            tokens = np.memmap(folder / TOKENS, np.dtype(marker["token_type"]), "r")
        if len(tokens) != loaded["offsets"][-1]:
            return None
        return TokenStore(
            tokens=tokens,
            positives=marker["positives"],
            label_names=tuple(marker["label_names"]),
            skipped=marker["skipped"],
            repeated=marker["repeated"],
            sizes=tuple(marker.get("sizes", [len(loaded["examples"])])),
            fingerprint=fingerprint,
            classes_named=marker.get("classes_named", False),
            **loaded,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _publish(draft: Path, folder: Path, fingerprint: str, tokens: Tokens | None) -> TokenStore:
    """Rename the draft into its place, unless another builder was there first."""
    for attempt in range(20):
        time.sleep(0.05 * attempt)
        try:
            draft.rename(folder)
        except OSError:
            # Something is there already: another builder's store, or a damaged one.
            store = _open(folder, fingerprint, tokens)
            if store is not None:
                return store
            aside = _draft(folder.parent, folder.name)
            try:
                folder.rename(aside)
            except FileNotFoundError:
                continue
            if aside.is_dir():
                shutil.rmtree(aside, ignore_errors=True)
            else:
                aside.unlink()
        else:
            # Another builder may be about to put the same store in this one's place.
            draft = folder
        store = _open(folder, fingerprint, tokens)
        if store is not None:
            return store
    raise SimjaxError(f"{folder}: the token store cannot be put in place; remove this folder")


def _remove_abandoned(cache: Path, fingerprint: str | None) -> None:
    """Remove what builders that were killed have left.

    Args:
        cache: the folder that stores lie in.
        fingerprint: of the store that this process alone may build on this machine, if so: what
            another one has left of it here goes at once.
    """
    for path in cache.glob("*.lock"):
        if _LOCK.fullmatch(path.name):
            lock.remove_left(path)
    for draft in cache.glob("*.tmp"):
        named = _DRAFT.fullmatch(draft.name)
        if named is None:
            continue
        ours = draft.name.startswith(f"{fingerprint}.") and named[1] == socket.gethostname()
        with suppress(FileNotFoundError):
            if ours or time.time() - _last_change(draft) > ABANDONED:
                shutil.rmtree(draft, ignore_errors=True)


def _last_change(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
