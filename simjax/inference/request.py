"""What is asked of every sentence of a call: prompt, dimensions kept, length of the vectors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float32


@dataclass(frozen=True)
class Request:
    """What is done to every sentence.

    Attributes:
        before: Text put before it.
        width: Leading dimensions of its vector that are kept.
        unit_first: Whether the vector is scaled to length 1 before it is cut, as modules of a
            folder do.
        unit_last: Whether it is afterwards.
        most_tokens: Most places that a device computes at a time.
    """

    before: str
    width: int
    unit_first: bool
    unit_last: bool
    most_tokens: int

    def finish(self, values: Float32[np.ndarray, "n D"]) -> Float32[np.ndarray, "n W"]:
        """What is given out, from what the model gives."""
        if self.unit_first:
            values = _unit_length(values)
        values = values[:, : self.width]
        return _unit_length(values) if self.unit_last else values


class Distinct:
    """Sentences behind their prompt, each different one once.

    Attributes:
        texts: The different ones, by first appearance.
        count: How many sentences there are.
    """

    def __init__(self, sentences: Iterable[str], before: str, number: int = 0) -> None:
        """Put the prompt before them and number them.

        Args:
            sentences: The sentences.
            before: The prompt.
            number: Number of the first, for the error.

        Raises:
            TypeError: One is not a string.
        """
        index: dict[str, int] = {}
        places: list[int] = []
        for place, text in enumerate(sentences, start=number):
            if not isinstance(text, str):
                raise TypeError(f"sentence {place} is {type(text).__name__}, not a string")
            places.append(index.setdefault(before + text, len(index)))
        self.texts = list(index)
        self.count = len(places)
        self._places = places

    def rows(self, values: Float32[np.ndarray, "T D"]) -> Float32[np.ndarray, "N D"]:
        """A row for every sentence, from one for every different sentence."""
        return values if len(values) == self.count else values[self._places]


def check_several(sentences: object) -> None:
    """Refuse what is neither a string nor several things.

    Raises:
        TypeError: It is not.
    """
    if isinstance(sentences, bytes) or not isinstance(sentences, Iterable):
        raise TypeError(f"sentences is {type(sentences).__name__}: give a string or several")


def default_batch_size() -> int:
    """Texts of 64 tokens per call: enough to fill the device, few enough for a CPU's caches."""
    return 16 if jax.default_backend() == "cpu" else 512


def _unit_length(x: Float32[np.ndarray, "T D"]) -> Float32[np.ndarray, "T D"]:
    norms = np.sqrt(np.einsum("nd,nd->n", x, x))[:, None]
    return x / np.maximum(norms, np.finfo(np.float32).tiny)
