"""A saved index: a folder of embeddings or their codes, and of the texts that they belong to.

`index.json` is written last and says what the folder holds: `embeddings.npy` (unit vectors,
float32), `codes.npy` and `ranges.npy` (quantised), `index.faiss`, texts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import jax
import numpy as np
from jaxtyping import Float32, Int

from simjax.errors import SimjaxError, UsageError
from simjax.eval.geometry import unit_rows
from simjax.index import approximate, quantize
from simjax.index.exact import ExactIndex, Hits
from simjax.index.texts import StoredTexts, TextWriter
from simjax.inference.formats import EmbeddingFile, head, load_array
from simjax.processes import drafts

Kind: TypeAlias = Literal["exact", "int8", "binary", "faiss-flat", "faiss-ivf", "faiss-hnsw"]

VERSION = 1
MARKER = "index.json"
EMBEDDINGS = "embeddings.npy"
CODES = "codes.npy"
RANGES = "ranges.npy"
FAISS = "index.faiss"
PART = 1 << 15
"""Rows that are held at a time."""
SAMPLE = 1 << 17
"""Most rows, evenly spaced, that ranges and centres are learned from."""
RESCORE = 4
"""Times k candidates that codes find for the embeddings to rank."""


@dataclass(frozen=True)
class About:
    """What an index holds.

    Attributes:
        kind: How it is searched.
        rows: Embeddings.
        width: Their dimensions.
        model: Fingerprint of the model, where the embeddings' file says.
        embeddings: Whether the folder holds them, beside codes or a faiss index.
        texts: Whether it holds the texts.
        recall: Share of the k best rows that are found, by k, where it was measured.
    """

    kind: Kind
    rows: int
    width: int
    model: str | None
    embeddings: bool
    texts: bool
    recall: dict[str, float] | None = None


def build(
    source: EmbeddingFile,
    folder: Path,
    *,
    kind: Kind = "exact",
    texts: Iterable[str] | None = None,
    keep_embeddings: bool = True,
    overwrite: bool = False,
    recall: Callable[[SavedIndex, Float32[np.ndarray, "N D"]], dict[str, float]] | None = None,
    advance: Callable[[int], None] = lambda rows: None,
) -> About:
    """Write an index in bounded memory (but for what faiss holds), whole or not at all.

    What calls that were killed have left there is cleared up first.

    Args:
        source: The embeddings; they are scaled to length 1.
        folder: Where to.
        kind: How it will be searched.
        texts: The text of each embedding; rows of empty ones are left out.
        keep_embeddings: Keep the embeddings beside codes, which rescores candidates; without
            them codes take a quarter (int8) or a 32nd (binary) of the space.
        overwrite: Replace an index that is there.
        recall: Measures the index, given its embeddings (`simjax.index.recall.measure`).
        advance: Told of rows as they are done.

    Raises:
        SimjaxError: The texts are not as many, the embeddings are faulty, faiss is missing, or
            the folder is in use.
    """
    if kind not in get_args(Kind):
        raise UsageError(f"kind {kind!r}: choose from {', '.join(get_args(Kind))}")
    drafts.recover(folder.resolve())
    if folder.exists() and not (overwrite and (folder / MARKER).is_file()):
        hint = "--overwrite replaces it" if (folder / MARKER).is_file() else "it is no index"
        raise SimjaxError(f"{folder}: exists already, and {hint}")
    if kind.startswith("faiss"):
        approximate.load_faiss()
    folder = folder.resolve()
    draft = drafts.draft_of(folder)
    try:
        draft.mkdir(parents=True)
        rows = _write_embeddings(source, draft, texts, advance)
        stored = np.load(draft / EMBEDDINGS, mmap_mode="r", allow_pickle=False)
        _write_search(stored, draft, kind)
        keeps = kind == "exact" or (keep_embeddings and kind in ("int8", "binary"))
        about = About(
            kind, rows, source.width, source.metadata.get("model"), keeps, texts is not None
        )
        _write_about(draft, about)
        if recall is not None and kind != "exact":
            about = replace(about, recall=recall(SavedIndex(draft), stored))
            _write_about(draft, about)
        if not keeps:
            (draft / EMBEDDINGS).unlink()
        drafts.move_into_place(draft, folder)
    except OSError as error:
        raise SimjaxError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return about


def _write_about(folder: Path, about: About) -> None:
    content = {"version": VERSION, **asdict(about)}
    (folder / MARKER).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _write_embeddings(
    source: EmbeddingFile,
    folder: Path,
    texts: Iterable[str] | None,
    advance: Callable[[int], None],
) -> int:
    """Unit rows of the embeddings whose text is not empty; returns how many there are."""
    rows = 0
    with (folder / EMBEDDINGS).open("wb") as file:
        file.write(head("npy", 0, source.width, {}))
        parts = source.parts(PART) if texts is None else _of_texts(source, folder, iter(texts))
        for part in parts:
            file.write(unit_rows(part).data)
            rows += len(part)
            advance(len(part))
        file.seek(0)
        file.write(head("npy", rows, source.width, {}))
    if not rows:
        raise SimjaxError(f"{source.path}: all texts are empty")
    return rows


def _of_texts(
    source: EmbeddingFile, folder: Path, texts: Iterator[str]
) -> Iterator[Float32[np.ndarray, "n D"]]:
    """The rows whose texts are not empty; writes these."""
    line = 0
    with TextWriter(folder) as writer:
        for part in source.parts(PART):
            beside = list(islice(texts, len(part)))
            if len(beside) < len(part):
                raise SimjaxError(
                    f"{source.path}: {source.rows:,} embeddings, but only "
                    f"{line + len(beside):,} texts; give the texts that were encoded"
                )
            kept = [place for place, text in enumerate(beside) if text.strip()]
            for place in kept:
                writer.add(beside[place], line + place + 1)
            line += len(beside)
            yield part[kept]
        if next(texts, None) is not None:
            raise SimjaxError(
                f"{source.path}: {source.rows:,} embeddings, but more texts; give the texts that "
                "were encoded"
            )


def _sample(stored: Float32[np.ndarray, "N D"]) -> Float32[np.ndarray, "S D"]:
    return np.asarray(stored[:: -(-len(stored) // SAMPLE)])


def _parts(stored: Float32[np.ndarray, "N D"]) -> Iterator[Float32[np.ndarray, "n D"]]:
    for start in range(0, len(stored), PART):
        yield stored[start : start + PART]


def _write_search(stored: Float32[np.ndarray, "N D"], folder: Path, kind: Kind) -> None:
    if kind == "exact":
        return
    if kind == "int8":
        ranges = quantize.calibrate(_sample(stored))
        np.save(folder / RANGES, ranges)
        codes = (quantize.to_int8(part, ranges) for part in _parts(stored))
        _write_codes(folder / CODES, np.dtype(np.int8), stored.shape, codes)
    elif kind == "binary":
        words = -(-stored.shape[1] // 32)
        codes = (quantize.to_words(quantize.to_bits(part)) for part in _parts(stored))
        _write_codes(folder / CODES, np.dtype(np.uint32), (len(stored), words), codes)
    else:
        index = approximate.build(kind, _sample(stored), len(stored), _parts(stored))
        approximate.save(index, folder / FAISS)


def _write_codes(
    path: Path, dtype: np.dtype, shape: tuple[int, ...], codes: Iterable[np.ndarray]
) -> None:
    """Part by part: a full disk is an error here, and a signal where a file is mapped."""
    layout = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, layout)
        for part in codes:
            file.write(np.ascontiguousarray(part, dtype).data)


class SavedIndex:
    """An index that is searched.

    Attributes:
        about: What it holds.
        texts: The texts, where there are some.
    """

    def __init__(self, folder: Path, devices: Sequence[jax.Device] | None = None) -> None:
        """Open a folder.

        Raises:
            SimjaxError: It is no index, or its files do not fit.
        """
        self.folder = folder
        self.about = read_about(folder)
        kind = self.about.kind
        try:
            self.texts = StoredTexts(folder) if self.about.texts else None
            self._embeddings = self._array(EMBEDDINGS, "<f4", self.about.width, 2)
            if kind in ("exact", "int8", "binary"):
                words = -(-self.about.width // 32)
                keys: Any = self._embeddings
                if kind == "int8":
                    keys = self._array(CODES, "|i1", self.about.width, 2)
                    self._ranges = load_array(folder / RANGES)
                    if self._ranges.shape != (2, self.about.width):
                        raise ValueError(f"{RANGES} has shape {self._ranges.shape}")
                elif kind == "binary":
                    keys = self._array(CODES, "<u4", words, 2)
                self._keys = keys
                self._exact = ExactIndex(keys, "bits" if kind == "binary" else "dot", devices)
        except (OSError, ValueError) as error:
            raise SimjaxError(f"{folder}: is damaged ({error}); build it again") from error
        if kind.startswith("faiss"):
            self._faiss = approximate.load(folder / FAISS)
            if (self._faiss.ntotal, self._faiss.d) != (self.about.rows, self.about.width):
                raise SimjaxError(f"{folder / FAISS}: does not fit {MARKER}; build it again")

    def _array(self, name: str, dtype: str, width: int, dimensions: int) -> Any:
        if name == EMBEDDINGS and not self.about.embeddings:
            return None
        array = load_array(self.folder / name)
        if array.dtype.str != dtype or array.shape != (self.about.rows, width):
            raise ValueError(f"{name} is {array.dtype} of shape {array.shape}")
        return array

    def search(
        self,
        queries: Float32[np.ndarray, "Q D"],
        k: int,
        *,
        rescore: int = RESCORE,
        effort: int | None = None,
    ) -> Hits:
        """The k best rows of each query by cosine similarity, as far as this kind finds them.

        Args:
            queries: Unit vectors.
            k: How many.
            rescore: Codes find so many times k candidates, which are then ranked by their
                embeddings, or without those by the codes' signs (`binary`); 0 leaves the codes'
                own order. Scores of binary codes are then `1 - 2 d / D` for d bits that differ.
            effort: For faiss; see `simjax.index.approximate.search`.

        Raises:
            UsageError: The queries have another width, or `k` or `rescore` is out of range.
        """
        if queries.shape[1] != self.about.width:
            raise UsageError(
                f"queries have {queries.shape[1]} dimensions, the index {self.about.width}"
            )
        if k < 1 or rescore < 0:
            raise UsageError(f"k {k}, rescore {rescore}: at least 1 and at least 0 are wanted")
        kind = self.about.kind
        if kind.startswith("faiss"):
            return approximate.search(self._faiss, queries, k, effort)
        if kind == "exact":
            return self._exact.search(queries, k)
        rescores = rescore > 0 and (self.about.embeddings or kind == "binary")
        hits = self._by_codes(queries, k * rescore if rescores else k)
        return self._rescored(queries, hits, k) if rescores else hits

    def _by_codes(self, queries: Float32[np.ndarray, "Q D"], k: int) -> Hits:
        if self.about.kind == "int8":
            weights, constants = quantize.int8_queries(queries, self._ranges)
            hits = self._exact.search(weights, k)
            return Hits(hits.scores + constants[:, None], hits.rows)
        words = quantize.to_words(quantize.to_bits(queries))
        hits = self._exact.search(words, k)
        return Hits(1 + 2 * hits.scores / self.about.width, hits.rows)

    def _rescored(self, queries: Float32[np.ndarray, "Q D"], hits: Hits, k: int) -> Hits:
        scores = np.empty(hits.scores.shape, np.float32)
        for place, (query, rows) in enumerate(zip(queries, hits.rows, strict=True)):
            scores[place] = self._candidates(rows) @ query
        order = np.lexsort((hits.rows, -scores), axis=1)[:, :k]
        return Hits(np.take_along_axis(scores, order, 1), np.take_along_axis(hits.rows, order, 1))

    def _candidates(self, rows: Int[np.ndarray, "n"]) -> Float32[np.ndarray, "n D"]:
        if self._embeddings is not None:
            return self._embeddings[rows]
        return quantize.signs(self._keys[rows], self.about.width) / np.sqrt(
            np.float32(self.about.width)
        )


def read_about(folder: Path) -> About:
    """What a folder's `index.json` says.

    Raises:
        SimjaxError: There is none, or it cannot be read.
    """
    path = folder / MARKER
    if not path.is_file():
        raise SimjaxError(f"{folder}: is no index (it has no {MARKER}); make one by simjax index")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version = found.pop("version")
        about = About(**found)
        if version != VERSION or about.kind not in get_args(Kind):
            raise ValueError(f"version {version}, kind {about.kind}")
        if not all(isinstance(n, int) and n > 0 for n in (about.rows, about.width)):
            raise ValueError(f"rows {about.rows}, width {about.width}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SimjaxError(f"{path}: cannot be read ({error}); build the index again") from error
    return about
