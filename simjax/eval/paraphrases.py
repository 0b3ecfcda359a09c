"""Held-out paraphrases: how well does a model foresee one of two texts from the other?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

from simjax.data.records import plain_or_gzip
from simjax.errors import NotFiniteError, SimjaxError
from simjax.eval.lines import read_columns

Likelihood: TypeAlias = Callable[
    [Sequence[tuple[str, str]]], tuple[Float[np.ndarray, "N"], Int[np.ndarray, "N"]]
]
"""For each pair, -log p of the second text behind the first, and the number of its tokens."""


@dataclass(frozen=True)
class ParaphraseSet:
    """Pairs of texts that mean the same."""

    pairs: list[tuple[str, str]]

    @property
    def behind(self) -> list[tuple[str, str]]:
        """Each text behind the one that it is predicted from: both ways."""
        return self.pairs + [(other, one) for one, other in self.pairs]


def read_paraphrases(path: Path) -> ParaphraseSet:
    """Read a TSV file: header with `sentence1` and `sentence2`, tabs, no quoting, `.gz` or plain.

    Where there is a column `label`, pairs with a 1 there are paraphrases and those with a 0 are
    left out.

    Raises:
        SimjaxError: With file and line, for a missing column, a wrong number of fields, an empty
            text or another label; or there is no paraphrase.
    """
    path = plain_or_gzip(path)
    pairs: list[tuple[str, str]] = []
    columns = (("sentence1",), ("sentence2",))
    for number, fields in read_columns(path, *columns, optional={"label": "1"}):
        one, other, label = (field.strip() for field in fields)
        if label not in ("0", "1"):
            raise SimjaxError(f"{path}:{number}: label {label!r} is neither 0 nor 1")
        if not one or not other:
            raise SimjaxError(f"{path}:{number}: a text is empty")
        if label == "1":
            pairs.append((one, other))
    if not pairs:
        raise SimjaxError(f"{path}: holds no paraphrases")
    return ParaphraseSet(pairs)


def perplexity(pairs: Sequence[tuple[str, str]], likelihood: Likelihood) -> float:
    """Exp of the mean -log p over the tokens of the second text of each pair.

    Raises:
        NotFiniteError: It is infinite, or no number.
    """
    losses, tokens = likelihood(pairs)
    mean = float(losses.sum(dtype=np.float64)) / int(tokens.sum())
    try:
        found = math.exp(mean)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise NotFiniteError(
            f"the perplexity is not finite (-log p of a token is {mean:g}); the model has diverged"
        )
    return found
