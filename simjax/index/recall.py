"""How much an index finds of what exact search finds."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float32, Int

from simjax.index.exact import ExactIndex, Hits
from simjax.index.folder import RESCORE, SavedIndex

CUTOFFS = (1, 10, 100)


def without_self(hits: Hits, own: Int[np.ndarray, "Q"], k: int) -> Int[np.ndarray, "Q k"]:
    """The first k rows of each query that are not its own; -1 where there are no more."""
    kept = np.full((len(hits.rows), k), -1, np.int64)
    for place, (rows, itself) in enumerate(zip(hits.rows, own, strict=True)):
        others = rows[rows != itself][:k]
        kept[place, : len(others)] = others
    return kept


def recall_at(found: Int[np.ndarray, "Q K"], true: Int[np.ndarray, "Q K"], k: int) -> float:
    """The share of the k best rows that are among the k found, over all queries."""
    shared = [
        len(np.intersect1d(some[:k], best[:k][best[:k] >= 0]))
        for some, best in zip(found, true, strict=True)
    ]
    return float(sum(shared) / np.count_nonzero(true[:, :k] >= 0))


def measure(
    index: SavedIndex,
    embeddings: Float32[np.ndarray, "N D"],
    queries: int,
    *,
    rescore: int = RESCORE,
    effort: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> dict[str, float]:
    """Recall@k beside exact search, with rows of the index as queries, themselves left out.

    Args:
        index: The index.
        embeddings: Its unit vectors.
        queries: How many rows, evenly spaced.
        rescore: See `SavedIndex.search`.
        effort: See there.
        devices: Which devices search exactly.

    Returns:
        `recall@1`, `recall@10` and `recall@100`, from 0 to 1; a k that leaves out no row is
        left out itself.
    """
    own = np.unique(np.linspace(0, len(embeddings) - 1, min(queries, len(embeddings))).astype(int))
    vectors = np.asarray(embeddings[own])
    cutoffs = [k for k in CUTOFFS if k < len(embeddings) - 1]
    if not cutoffs:
        return {}
    most = max(cutoffs)
    exact = ExactIndex(embeddings, devices=devices).search(vectors, most + 1)
    true = without_self(exact, own, most)
    scores = {}
    for k in cutoffs:
        hits = index.search(vectors, k + 1, rescore=rescore, effort=effort)
        scores[f"recall@{k}"] = recall_at(without_self(hits, own, k), true, k)
    return scores
