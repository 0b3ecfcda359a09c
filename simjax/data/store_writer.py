"""Writing a token store: examples are read, tokenised and written a chunk at a time.

Nothing that grows with the data set is held in memory, but for the classes' names and, where
repeated examples are left out, a byte for each example.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int

from simjax.data import sources
from simjax.data.disk_arrays import NpyWriter, open_array, release, slices, write_values
from simjax.data.identity import normalised, text_digest
from simjax.data.numbering import check_count, number_texts, repeated
from simjax.errors import SimjaxError
from simjax.types import NO_TEXT

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MARKER = "store.json"
TOKENS = "tokens.bin"
ARRAYS = ("offsets", "text_ids", "digests", "examples", "labels", "scores")
CHUNK = 10_000
"""Most examples tokenised at a time: what is held as Python integers."""
CHARACTERS = 1 << 23
"""After so many of them a chunk is closed too: a tokenizer takes a long text whole before it cuts
it, and holds some 50 bytes for a character."""
_ROWS = 1 << 17
"""Rows of an array that are looked at together."""


def write(
    folder: Path,
    source: sources.Source,
    root: Path | None,
    backend: Tokenizer,
    fingerprint: str,
    drop_duplicates: bool,
    progress: Callable[[int], None] | None,
) -> None:
    """Read, tokenise and write everything into `folder`, the marker last.

    Args:
        folder: empty.
        source: what to read.
        root: the folder that the source's path is relative to.
        backend: the tokenizer, which cuts long texts.
        fingerprint: of all of this.
        drop_duplicates: leave out examples that repeat an earlier one; the source is read twice.
        progress: called after each chunk with the number of examples done so far.

    Raises:
        SimjaxError: the source is faulty or holds no examples.
    """
    dtype = np.dtype(np.uint16 if max(backend.get_vocab().values()) < 2**16 else np.int32)
    scratch = folder / "scratch"
    scratch.mkdir()
    examples = sources.read(source, root)
    again = _repeated(examples, scratch) if drop_duplicates else None
    seen = 0
    label_of = {name: number for number, name in enumerate(source.named_classes)}
    with (
        (folder / TOKENS).open("wb") as tokens,
        NpyWriter(folder / "offsets.npy", np.int64) as offsets,
        NpyWriter(folder / "labels.npy", np.int32) as labels,
        NpyWriter(folder / "scores.npy", np.float32) as scores,
        NpyWriter(scratch / "counts.npy", np.int32, 2) as counts,
        NpyWriter(scratch / "digests.npy", np.uint64, 2) as digests,
    ):
        offsets.append([0])
        end = 0
        for chunk in _chunks(examples):
            if again is not None:
                old = again[seen : seen + len(chunk)]
                if len(old) < len(chunk):
                    raise changed(source, root)
                seen += len(chunk)
                chunk = [example for example, is_old in zip(chunk, old, strict=True) if not is_old]
            texts = [text for example in chunk for text in sources.prompted(source, example)]
            lengths, encoded = _encode(backend, texts)
            ids = np.fromiter(chain.from_iterable(encoded), dtype, int(lengths.sum()))
            write_values(tokens, ids)
            ends = end + np.cumsum(lengths, dtype=np.int64)
            offsets.append(ends)
            end = int(ends[-1]) if len(ends) else end
            digests.append(_digests(chain.from_iterable(map(_texts, chunk))))
            check_count(digests.rows, sources.describe(source, root))
            labels.append([_number(example.label, label_of) for example in chunk])
            scores.append([math.nan if e.score is None else e.score for e in chunk])
            counts.append(
                np.reshape([(len(e.positives), len(e.negatives)) for e in chunk], (-1, 2))
            )
            if progress is not None:
                progress(labels.rows)
    if again is not None and seen != len(again):
        raise changed(source, root)
    if not labels.rows:
        raise SimjaxError(
            f"{sources.describe(source, root)}: no examples"
            + (f", {examples.skipped} were skipped for empty texts" if examples.skipped else "")
        )
    number_texts(scratch / "digests.npy", folder / "text_ids.npy", folder / "digests.npy", scratch)
    positives = _write_examples(scratch / "counts.npy", folder / "examples.npy")
    shutil.rmtree(scratch)
    marker = {
        "fingerprint": fingerprint,
        "token_type": dtype.name,
        "positives": positives,
        "label_names": list(label_of),
        "classes_named": bool(source.named_classes),
        "skipped": examples.skipped,
        "repeated": 0 if again is None else int(np.count_nonzero(again)),
    }
    finish(folder, marker)


def finish(folder: Path, marker: dict[str, Any]) -> None:
    """Write the marker, once the bytes of all other files are on the disk."""
    paths = sorted(folder.iterdir())
    for path in paths:
        _sync(path)
    marker = marker | {"bytes": {path.name: path.stat().st_size for path in paths}}
    (folder / MARKER).write_text(json.dumps(marker), encoding="utf-8")
    _sync(folder / MARKER)


def _encode(
    backend: Tokenizer, texts: list[str]
) -> tuple[Int[np.ndarray, "texts"], list[list[int]]]:
    encoded = [encoding.ids for encoding in backend.encode_batch_fast(texts)]
    lengths = np.fromiter(map(len, encoded), np.int32, len(encoded))
    if not lengths.all():
        text = texts[int(np.argmin(lengths))]
        raise SimjaxError(f"the tokenizer makes no token of the text {text[:60]!r}")
    return lengths, encoded


def _texts(example: sources.Example) -> tuple[str, ...]:
    return (example.anchor, *example.positives, *example.negatives)


def _digests(texts: Iterable[str]) -> np.ndarray:
    digests = b"".join(text_digest(normalised(text)) for text in texts)
    return np.frombuffer(digests, np.uint64).reshape(-1, 2)


def _number(label: str | None, label_of: dict[str, int]) -> int:
    return -1 if label is None else label_of.setdefault(label, len(label_of))


def changed(source: sources.Source, root: Path | None) -> SimjaxError:
    """The complaint that a source is not what it was."""
    name = sources.describe(source, root)
    return SimjaxError(f"{name}: changed while it was read; start again")


def _repeated(examples: sources.Examples, scratch: Path) -> Bool[np.ndarray, "N"]:
    """Which examples repeat an earlier one."""
    with NpyWriter(scratch / "keys.npy", np.uint64, 2) as keys:
        for chunk in _chunks(examples):
            keys.append(np.frombuffer(b"".join(map(_key, chunk)), np.uint64).reshape(-1, 2))
    return repeated(open_array(scratch / "keys.npy"), scratch)


def _key(example: sources.Example) -> bytes:
    """What is equal for examples of the same texts in the same roles, class and score."""
    roles = (len(example.positives), len(example.negatives), example.label, example.score)
    digest = hashlib.blake2b(repr(roles).encode(), digest_size=16)
    for text in _texts(example):
        digest.update(text_digest(normalised(text)))
    return digest.digest()


def _write_examples(counts: Path, path: Path) -> int:
    """Write the table of the examples' texts, and return the most positives of any."""
    given = open_array(counts)
    most, hard = 0, 0
    for run in slices(len(given), _ROWS):
        most, hard = np.maximum((most, hard), given[run].max(axis=0)).tolist()
        release(given)
    first = 0
    with NpyWriter(path, np.int32, 1 + most + hard) as writer:
        for run in slices(len(given), _ROWS):
            some = np.asarray(given[run], np.int64)
            writer.append(_example_table(some[:, 0], some[:, 1], most, hard, first))
            first += len(some) + int(some.sum())
            release(given)
    return most


def _example_table(
    positives: Int[np.ndarray, "N"],
    negatives: Int[np.ndarray, "N"],
    most: int,
    most_hard: int,
    begin: int,
) -> Int[np.ndarray, "N V"]:
    """Text numbers of each example, whose texts follow each other: anchor, positives, negatives.

    Args:
        positives: how many each has.
        negatives: how many each has.
        most: columns for positives.
        most_hard: columns for negatives.
        begin: number of the first text.
    """
    used = 1 + positives + negatives
    first = begin + (np.cumsum(used) - used)[:, None]
    view = np.arange(1 + most)
    wanted = np.where(view <= positives[:, None], first + view, NO_TEXT)
    hard = np.arange(most_hard)
    hard_first = first + 1 + positives[:, None]
    wanted_hard = np.where(hard < negatives[:, None], hard_first + hard, NO_TEXT)
    return np.concatenate([wanted, wanted_hard], axis=1).astype(np.int32)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _chunks(examples: Iterable[sources.Example]) -> Iterator[list[sources.Example]]:
    chunk: list[sources.Example] = []
    characters = 0
    for example in examples:
        chunk.append(example)
        characters += sum(map(len, _texts(example)))
        if len(chunk) >= CHUNK or characters >= CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
