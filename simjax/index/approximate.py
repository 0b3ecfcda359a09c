"""faiss, the optional library of approximate search: flat, inverted lists, small-world graphs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float32

from simjax.errors import SimjaxError
from simjax.index.exact import Hits

FaissKind: TypeAlias = Literal["faiss-flat", "faiss-ivf", "faiss-hnsw"]

LINKS = 32
"""Neighbours of a node of the graph."""
BUILD_EFFORT = 128
EFFORT = 64
"""Candidates that a search of the graph keeps, unless it is told otherwise."""
PER_LIST = 64
"""Rows of each inverted list that its centre is learned from; faiss asks for 39 at least."""


def load_faiss() -> Any:
    """The library.

    Raises:
        SimjaxError: It is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise SimjaxError(
            f"faiss is not installed ({error}); pip install 'simjax[index]', or choose exact, int8 "
            "or binary"
        ) from error
    return faiss


def lists_for(rows: int) -> int:
    """Inverted lists for so many rows: about 4 sqrt(N), and few enough to learn their centres."""
    return max(1, min(round(4 * math.sqrt(rows)), rows // PER_LIST))


def build(
    kind: FaissKind,
    sample: Float32[np.ndarray, "S D"],
    rows: int,
    parts: Iterable[Float32[np.ndarray, "n D"]],
) -> Any:
    """A faiss index of unit vectors under the inner product.

    Args:
        kind: Which.
        sample: What the centres of inverted lists are learned from.
        rows: How many vectors there are.
        parts: The vectors.
    """
    faiss = load_faiss()
    width = sample.shape[1]
    if kind == "faiss-hnsw":
        index = faiss.IndexHNSWFlat(width, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BUILD_EFFORT
    elif kind == "faiss-ivf":
        coarse = faiss.IndexFlatIP(width)
        lists = lists_for(min(rows, len(sample)))
        index = faiss.IndexIVFFlat(coarse, width, lists, faiss.METRIC_INNER_PRODUCT)
        index.train(np.ascontiguousarray(sample))
    else:
        index = faiss.IndexFlatIP(width)
    for part in parts:
        index.add(np.ascontiguousarray(part))
    return index


def _reason(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[-1]


def save(index: Any, path: Path) -> None:
    """Write an index.

    Raises:
        SimjaxError: It cannot be written.
    """
    try:
        load_faiss().write_index(index, str(path))
    except RuntimeError as error:
        raise SimjaxError(f"{path}: cannot be written by faiss ({_reason(error)})") from error


def load(path: Path) -> Any:
    """Read an index.

    Raises:
        SimjaxError: faiss is missing, or the file is damaged.
    """
    faiss = load_faiss()
    try:
        return faiss.read_index(str(path))
    except RuntimeError as error:
        raise SimjaxError(f"{path}: cannot be read by faiss ({_reason(error)})") from error


def search(index: Any, queries: Float32[np.ndarray, "Q D"], k: int, effort: int | None) -> Hits:
    """The k best rows of each query that faiss finds.

    Args:
        index: From `build` or `load`.
        queries: Unit vectors.
        k: How many.
        effort: Inverted lists that are looked through (by default an eighth of them), or
            candidates that the graph keeps (`EFFORT`; never fewer than k).
    """
    if hasattr(index, "nprobe"):
        index.nprobe = min(index.nlist, effort or max(1, index.nlist // 8))
    elif hasattr(index, "hnsw"):
        index.hnsw.efSearch = max(k, effort or EFFORT)
    scores, rows = index.search(np.ascontiguousarray(queries), min(k, index.ntotal))
    return Hits(np.where(rows < 0, -np.inf, scores).astype(np.float32), rows.astype(np.int64))
