"""What sentences are looked through with, once something embeds them: similarity and search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TypeAlias, overload

import jax
import numpy as np
from jaxtyping import Float, Float32

from simjax.errors import SimjaxError, UsageError
from simjax.eval.geometry import unit_rows
from simjax.index.sentences import Hit, SentenceIndex

Texts: TypeAlias = str | Sequence[str]


class Searchable(ABC):
    """An `encode`, and with it similarity and a search in memory."""

    _devices: Sequence[jax.Device] | None = None
    _index: SentenceIndex | None = None

    @abstractmethod
    def encode(
        self,
        sentences: str | Iterable[str],
        *,
        batch_size: int | None = None,
        normalize: bool | None = None,
        show_progress_bar: bool = False,
        prompt: str | None = None,
        truncate_dim: int | None = None,
    ) -> Float32[np.ndarray, "..."]:
        """Embed sentences."""

    def similarity(
        self, a: Texts | Float[np.ndarray, "*N D"], b: Texts | Float[np.ndarray, "*M D"]
    ) -> Float32[np.ndarray, "N M"]:
        """Cosine similarity of each of `a` with each of `b`; each texts or embeddings.

        Raises:
            UsageError: The embeddings have different widths.
        """
        left, right = self._unit(a), self._unit(b)
        if left.shape[1] != right.shape[1]:
            raise UsageError(f"embeddings of widths {left.shape[1]} and {right.shape[1]}")
        return left @ right.T

    def _unit(self, x: Texts | Float[np.ndarray, "*N D"]) -> Float32[np.ndarray, "N D"]:
        if isinstance(x, str):
            x = [x]
        if isinstance(x, np.ndarray | jax.Array) or (len(x) and not isinstance(x[0], str)):
            return unit_rows(np.atleast_2d(np.asarray(x, np.float32)))
        return self.encode(x, normalize=True)

    def build_index(
        self,
        sentences: Sequence[str],
        *,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
    ) -> None:
        """Embed the sentences that `search` looks through, in place of any before them.

        Options are those of `encode`.

        Raises:
            SimjaxError: There are none.
        """
        kept = list(sentences)
        if not kept:
            raise SimjaxError("there are no sentences to build an index from")
        vectors = self.encode(
            kept, batch_size=batch_size, normalize=True, show_progress_bar=show_progress_bar
        )
        self._index = SentenceIndex(kept, vectors, self._devices)

    @overload
    def search(
        self,
        queries: str,
        *,
        top_k: int = 10,
        threshold: float | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
    ) -> list[Hit]: ...

    @overload
    def search(
        self,
        # Not any sequence of strings, since a string is one as well.
        queries: list[str] | tuple[str, ...],
        *,
        top_k: int = 10,
        threshold: float | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
    ) -> list[list[Hit]]: ...

    def search(
        self,
        queries: str | list[str] | tuple[str, ...],
        *,
        top_k: int = 10,
        threshold: float | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
    ) -> list[Hit] | list[list[Hit]]:
        """Find the sentences of the index that are most similar, exactly.

        Args:
            queries: One query, or several.
            top_k: Most hits per query.
            threshold: Least cosine similarity of a hit; None for any.
            prompt: Text put before every query; see `encode`.
            batch_size: See `encode`.

        Returns:
            Hits from the best down, equal scores by place; one list per query, or just the list
            for a query given as a string.

        Raises:
            SimjaxError: No index was built.
            UsageError: `top_k` is below 1.
        """
        if self._index is None:
            raise SimjaxError("nothing to search: call build_index(sentences) first")
        if top_k < 1:
            raise UsageError(f"top_k {top_k}: must be at least 1")
        if isinstance(queries, str):
            queries = [queries]
            return self.search(
                queries, top_k=top_k, threshold=threshold, prompt=prompt, batch_size=batch_size
            )[0]
        vectors = self.encode(queries, batch_size=batch_size, normalize=True, prompt=prompt)
        return self._index.search(vectors, top_k, threshold)
