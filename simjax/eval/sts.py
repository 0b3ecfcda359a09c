"""Semantic textual similarity: do cosine similarities rank sentence pairs as people do?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

from simjax.data.records import plain_or_gzip
from simjax.errors import SimjaxError
from simjax.eval.lines import read_columns

Encode: TypeAlias = Callable[[Sequence[str]], Float[np.ndarray, "N D"]]
"""Texts to embeddings, one row each, in order. Normalised or not: every metric normalises."""

COLUMNS = (("sentence1", "text_a"), ("sentence2", "text_b"), ("score", "label"))
SUFFIXES = (".tsv", ".tsv.gz")


@dataclass(frozen=True)
class StsSubset:
    """Sentence pairs with a gold similarity each, from one file."""

    name: str
    first: list[str]
    second: list[str]
    gold: Float[np.ndarray, "N"]


@dataclass(frozen=True)
class StsSet:
    """One STS task: its subsets, and its texts with repetitions removed.

    `pairs` index into `texts`, over the concatenated subsets.
    """

    subsets: tuple[StsSubset, ...]
    texts: list[str]
    pairs: Int[np.ndarray, "N 2"]
    gold: Float[np.ndarray, "N"]


@dataclass(frozen=True)
class Correlations:
    """Rank (Spearman) and linear (Pearson) correlation, both times 100."""

    spearman: float
    pearson: float


@dataclass(frozen=True)
class StsScores:
    """Correlations over all pairs at once, per subset, and the plain mean over subsets.

    Published tables use either; SimCSE's "all" setting is `overall`.
    """

    overall: Correlations
    mean: Correlations
    subsets: dict[str, Correlations]


def _name(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".tsv")


def read_subset(path: Path) -> StsSubset:
    """Read one TSV file: header ``sentence1 sentence2 score``, tabs, no quoting.

    A column ``label`` stands for a missing ``score``: 0 and 1 for pairs that differ or mean the
    same, as in ATEC, BQ, LCQMC and PAWS-X, whose ranks Spearman's correlation compares as well.
    Copies of LCQMC and BQ call their sentences ``text_a`` and ``text_b``.

    Raises:
        SimjaxError: With file and line, for a missing column, a row with the wrong number of
            fields, an empty text, a score that is no finite number, or fewer than two pairs.
    """
    first: list[str] = []
    second: list[str] = []
    gold: list[float] = []
    for number, (text_a, text_b, text_score) in read_columns(path, *COLUMNS):
        if not text_a.strip() or not text_b.strip():
            raise SimjaxError(f"{path}:{number}: a text is empty")
        try:
            score = float(text_score)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise SimjaxError(f"{path}:{number}: score {text_score!r} is not a finite number")
        first.append(text_a)
        second.append(text_b)
        gold.append(score)
    if len(gold) < 2:
        raise SimjaxError(f"{path}: {len(gold)} sentence pairs; a correlation needs at least 2")
    if len(set(gold)) == 1:
        raise SimjaxError(f"{path}: every score is {gold[0]:g}, so there is nothing to correlate")
    return StsSubset(_name(path), first, second, np.asarray(gold, np.float64))


def read_sts(path: Path | str) -> StsSet:
    """Read a TSV file (one set) or a folder of them (one subset per file, in name order).

    Raises:
        SimjaxError: No such path, no TSV file in the folder, or a malformed file.
    """
    path = plain_or_gzip(Path(path))
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES))
        if not files:
            raise SimjaxError(f"{path}: no .tsv file in this folder")
    else:
        files = [path]
    return sts_set(tuple(read_subset(file) for file in files))


def sts_set(subsets: tuple[StsSubset, ...]) -> StsSet:
    """Join subsets, numbering each distinct sentence once."""
    index: dict[str, int] = {}
    pairs = [
        (index.setdefault(a, len(index)), index.setdefault(b, len(index)))
        for subset in subsets
        for a, b in zip(subset.first, subset.second, strict=True)
    ]
    gold = np.concatenate([subset.gold for subset in subsets])
    return StsSet(subsets, list(index), np.asarray(pairs, np.int64).reshape(-1, 2), gold)


def correlate(predicted: Float[np.ndarray, "N"], gold: Float[np.ndarray, "N"]) -> Correlations:
    """Spearman and Pearson correlation times 100; both 0 when the prediction is constant."""
    from scipy import stats

    if np.ptp(predicted) == 0.0:
        return Correlations(0.0, 0.0)
    return Correlations(
        100.0 * float(stats.spearmanr(predicted, gold).statistic),
        100.0 * float(stats.pearsonr(predicted, gold).statistic),
    )


def score(data: StsSet, unit: Float[np.ndarray, "T D"]) -> StsScores:
    """Correlate cosine similarities with the gold scores.

    Args:
        data: The set.
        unit: Unit embeddings of `data.texts`.
    """
    cosine = np.einsum("nd,nd->n", unit[data.pairs[:, 0]], unit[data.pairs[:, 1]])
    cosine = cosine.astype(np.float64)
    subsets: dict[str, Correlations] = {}
    start = 0
    for subset in data.subsets:
        stop = start + len(subset.gold)
        subsets[subset.name] = correlate(cosine[start:stop], subset.gold)
        start = stop
    mean = Correlations(
        float(np.mean([c.spearman for c in subsets.values()])),
        float(np.mean([c.pearson for c in subsets.values()])),
    )
    return StsScores(correlate(cosine, data.gold), mean, subsets)
