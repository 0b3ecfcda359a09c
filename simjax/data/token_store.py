"""Tokenise once: token ids of every text of a source, memory-mapped from a cache folder.

A store is a folder named by its fingerprint, a SHA-256 over the source's files, the tokenizer and
the options. It is written beside its place and renamed into it, with `store.json` written last;
a folder whose `store.json` is missing or does not fit its files is no store and is built again.
Builders that run at the same time each write a folder of their own; one of them stays.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Float, Int, UInt64

from simjax.data import sources
from simjax.data.engine import copy_engine, written
from simjax.data.identity import normalised, text_digest
from simjax.data.packing import Tokens
from simjax.errors import SimjaxError, UsageError
from simjax.types import NO_TEXT

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

VERSION = 2
"""Raised when stores or the reading of sources change, so that old stores are left alone."""

MARKER = "store.json"
TOKENS = "tokens.bin"
ARRAYS = ("offsets", "text_ids", "digests", "examples", "labels", "scores")
CHUNK = 10_000
"""Examples tokenised at a time: what is held as Python integers."""
ABANDONED = 24 * 3600
"""Seconds after which an unfinished folder of a builder that died is removed."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class TokenStore:
    """The texts of a source as token ids, and the examples made of them."""

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
    """What the labels stand for: `Source.classes`, or by first appearance."""
    skipped: int
    """Examples left out because a text that they need is empty."""
    repeated: int
    """Examples left out because an earlier one has the same texts, class and score."""
    fingerprint: str
    sizes: tuple[int, ...]
    """Examples of each source, which follow each other."""

    @cached_property
    def lengths(self) -> Int[np.ndarray, "texts"]:
        """Tokens of each text."""
        return np.diff(self.offsets).astype(np.int32)


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
    fingerprint = _fingerprint(source, root, [written(backend), max_length, side, drop_duplicates])
    folder = cache / fingerprint
    store = _open(folder, fingerprint)
    if store is not None:
        return store
    backend.enable_truncation(max_length, direction=side)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(cache, fingerprint)
        draft = cache / f"{fingerprint}.{secrets.token_hex(8)}.tmp"
        draft.mkdir()
        try:
            _write(draft, source, root, backend, fingerprint, drop_duplicates, progress)
            return _publish(draft, folder, fingerprint)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise SimjaxError(
            f"{cache}: the token store cannot be written: {error.strerror or error}; "
            "choose another folder with data.cache"
        ) from error


def _fingerprint(source: sources.Source, root: Path | None, options: list[Any]) -> str:
    """Same fingerprint, same store: contents count, names and times of files do not."""
    digest = hashlib.sha256(f"simjax token store {VERSION}\n".encode())
    decisive = [
        source.path if source.format == "builtin" else None,
        *(source.subset, source.split),
        *(source.anchor, source.positives, source.negatives, source.label, source.score),
        *(source.anchor_prefix, source.document_prefix),
        # Only where they are given, so that older stores, and runs on them, stay valid.
        *([list(source.classes)] if source.classes else []),
        *([source.score_range] if source.score_range else []),
    ]
    digest.update(json.dumps([decisive, options]).encode())
    for path, format_ in sources.files(source, root):
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise SimjaxError(f"{path}: {error.strerror or error}") from error
        digest.update(f"{format_} {content}\n".encode())
    return digest.hexdigest()[:32]


def _write(
    folder: Path,
    source: sources.Source,
    root: Path | None,
    backend: Tokenizer,
    fingerprint: str,
    drop_duplicates: bool,
    progress: Callable[[int], None] | None,
) -> None:
    """Read, tokenise and write everything into `folder`, the marker last."""
    dtype = np.dtype(np.uint16 if max(backend.get_vocab().values()) < 2**16 else np.int32)
    lengths, ids = array("i"), array("i")
    positives, negatives, labels = array("i"), array("i"), array("i")
    scores = array("f")
    id_of: dict[str, int] = {}
    label_of = {name: number for number, name in enumerate(source.classes)}
    examples = sources.read(source, root)
    seen: set[bytes] | None = set() if drop_duplicates else None
    repeated = 0
    with (folder / TOKENS).open("wb") as file:
        for chunk in _chunks(iter(examples), CHUNK):
            texts: list[str] = []
            for example in chunk:
                own = (example.anchor, *example.positives, *example.negatives)
                numbers = [id_of.setdefault(normalised(text), len(id_of)) for text in own]
                if seen is not None:
                    key = _key(example, numbers)
                    if key in seen:
                        repeated += 1
                        continue
                    seen.add(key)
                texts += sources.prompted(source, example)
                ids.extend(numbers)
                positives.append(len(example.positives))
                negatives.append(len(example.negatives))
                scores.append(math.nan if example.score is None else example.score)
                label = example.label
                labels.append(-1 if label is None else label_of.setdefault(label, len(label_of)))
            encoded = [encoding.ids for encoding in backend.encode_batch_fast(texts)]
            counts = np.fromiter(map(len, encoded), np.int32, len(encoded))
            if not counts.all():
                text = texts[int(np.argmin(counts))]
                raise SimjaxError(f"the tokenizer makes no token of the text {text[:60]!r}")
            lengths.frombytes(counts.tobytes())
            np.fromiter(chain.from_iterable(encoded), dtype, int(counts.sum())).tofile(file)
            if progress is not None:
                progress(len(labels))
        _sync(file)
    if not labels:
        raise SimjaxError(
            f"{sources.describe(source, root)}: no examples"
            + (f", {examples.skipped} were skipped for empty texts" if examples.skipped else "")
        )
    arrays = {
        "offsets": np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        "text_ids": np.asarray(ids, np.int32),
        "digests": np.frombuffer(b"".join(map(text_digest, id_of)), np.uint64).reshape(-1, 2),
        "examples": _example_table(np.asarray(positives), np.asarray(negatives)),
        "labels": np.asarray(labels, np.int32),
        "scores": np.asarray(scores, np.float32),
    }
    for name, values in arrays.items():
        with (folder / f"{name}.npy").open("wb") as file:
            np.save(file, values, allow_pickle=False)
            _sync(file)
    names = [TOKENS, *(f"{name}.npy" for name in ARRAYS)]
    marker = {
        "fingerprint": fingerprint,
        "token_type": dtype.name,
        "positives": max(positives),
        "label_names": list(label_of),
        "skipped": examples.skipped,
        "repeated": repeated,
        "bytes": {name: (folder / name).stat().st_size for name in names},
    }
    with (folder / MARKER).open("w", encoding="utf-8") as file:
        json.dump(marker, file)
        _sync(file)


def _key(example: sources.Example, texts: list[int]) -> bytes:
    """What is equal for examples of the same texts in the same roles, class and score."""
    roles = (len(example.positives), len(example.negatives), example.label, example.score)
    return hashlib.blake2b(repr((texts, roles)).encode(), digest_size=16).digest()


def _example_table(
    positives: Int[np.ndarray, "N"], negatives: Int[np.ndarray, "N"]
) -> Int[np.ndarray, "N V"]:
    """Text numbers of each example, whose texts follow each other: anchor, positives, negatives."""
    used = 1 + positives + negatives
    first = (np.cumsum(used) - used)[:, None]
    most = int(positives.max())
    view = np.arange(1 + most)
    wanted = np.where(view <= positives[:, None], first + view, NO_TEXT)
    hard = np.arange(int(negatives.max()))
    hard_first = first + 1 + positives[:, None]
    wanted_hard = np.where(hard < negatives[:, None], hard_first + hard, NO_TEXT)
    return np.concatenate([wanted, wanted_hard], axis=1).astype(np.int32)


def _open(folder: Path, fingerprint: str) -> TokenStore | None:
    """The store in `folder`, or None if there is no whole one."""
    try:
        marker: dict[str, Any] = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in marker["bytes"]}
        if marker["fingerprint"] != fingerprint or sizes != marker["bytes"]:
            return None
        loaded = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ARRAYS
        }
        tokens = np.memmap(folder / TOKENS, np.dtype(marker["token_type"]), "r")
        return TokenStore(
            tokens=tokens,
            positives=marker["positives"],
            label_names=tuple(marker["label_names"]),
            skipped=marker["skipped"],
            repeated=marker["repeated"],
            sizes=(len(loaded["examples"]),),
            fingerprint=fingerprint,
            **loaded,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _publish(draft: Path, folder: Path, fingerprint: str) -> TokenStore:
    """Rename the draft into its place, unless another builder was there first."""
    for attempt in range(20):
        time.sleep(0.05 * attempt)
        try:
            draft.rename(folder)
        except OSError:
            # Something is there already: another builder's store, or a damaged one.
            store = _open(folder, fingerprint)
            if store is not None:
                return store
            aside = folder.with_name(f"{folder.name}.{secrets.token_hex(8)}.tmp")
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
        store = _open(folder, fingerprint)
        if store is not None:
            return store
    raise SimjaxError(f"{folder}: the token store cannot be put in place; remove this folder")


def _remove_abandoned(cache: Path, fingerprint: str) -> None:
    for draft in cache.glob(f"{fingerprint}.*.tmp"):
        try:
            if time.time() - draft.stat().st_mtime > ABANDONED:
                shutil.rmtree(draft, ignore_errors=True)
        except FileNotFoundError:
            continue


def _sync(file: Any) -> None:
    """Have the bytes on the disk before the marker says so."""
    file.flush()
    os.fsync(file.fileno())


def _chunks(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    while chunk := list(islice(items, size)):
        yield chunk
