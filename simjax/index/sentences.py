"""Sentences with their embeddings in memory, and what a search in them gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float32

from simjax.index.exact import ExactIndex


@dataclass(frozen=True)
class Hit:
    """A sentence that a search found.

    Attributes:
        index: Its place in the sentences that the index was built from.
        sentence: The sentence.
        score: Cosine similarity with the query.
    """

    index: int
    sentence: str
    score: float


class SentenceIndex:
    """Sentences that are searched."""

    def __init__(
        self,
        sentences: Sequence[str],
        vectors: Float32[np.ndarray, "N D"],
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        """Take the sentences and their unit vectors, to be searched on the devices."""
        self._sentences = sentences
        self._exact = ExactIndex(vectors, devices=devices)

    def search(
        self, queries: Float32[np.ndarray, "Q D"], k: int, threshold: float | None
    ) -> list[list[Hit]]:
        """For each query the k most similar sentences that reach the threshold, best first."""
        found = self._exact.search(queries, k)
        return [
            [
                Hit(row, self._sentences[row], score)
                for score, row in zip(scores, rows, strict=True)
                if threshold is None or score >= threshold
            ]
            for scores, rows in zip(found.scores.tolist(), found.rows.tolist(), strict=True)
        ]
