"""Part two's conclusions, in words from its own tables and with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence

from simjax.lab.precision.comparisons import (
    QUESTIONS,
    Best,
    Comparison,
    Question,
    Setting,
    pooled,
)
from simjax.lab.precision.settings import Arm, Dtype, Optimizer
from simjax.lab.precision.statistics import LEVEL, Difference

Chosen = dict[tuple[Setting, Arm], Best]

LISTED = 8
"""Most cases that are told by name."""

METRICS = {
    "spearman": "Spearman on STS-B dev (times 100)",
    "ndcg@10": "nDCG@10 of held-out pairs (times 100)",
    "alignment": "alignment (lower is closer)",
    "uniformity": "uniformity (lower is more even)",
}


def interval(difference: Difference) -> str:
    """Mean and 95 % interval of a difference."""
    if not math.isfinite(difference.low):
        return f"{difference.mean:+.2f} (one seed: no interval)"
    return f"{difference.mean:+.2f} (95 % interval {difference.low:+.2f} to {difference.high:+.2f})"


def verdict(difference: Difference) -> str:
    """What a difference of scores says, higher being better."""
    if difference.within_spread:
        return "within the spread of the seeds"
    return "better" if difference.mean > 0 else "worse"


def conclusion(
    chosen: Chosen, comparisons: Sequence[Comparison], question: Question, metric: str
) -> str:
    """A question over all settings, and in how many single ones the arms can be told apart."""
    whole = pooled(chosen, question, metric)
    rows = [row for row in comparisons if row.question == question and row.metric == metric]
    if whole is None or not rows:
        return f"{_name(question)}: not measured."
    said = (
        f"{_name(question)}: over all {len(rows)} settings {METRICS[metric]} changes by "
        f"{interval(whole)}: {verdict(whole)}."
    )
    if not math.isfinite(whole.low):
        return said
    apart = [row for row in rows if not row.difference.within_spread]
    if not apart:
        return f"{said} In every single setting the difference is within the spread."
    better = sum(row.difference.mean > 0 for row in apart)
    kept = sum(row.difference.holm < LEVEL for row in rows)
    largest = max(apart, key=lambda row: abs(row.difference.mean))
    return (
        f"{said} In {len(apart)} of {len(rows)} single settings the interval does not cover 0 "
        f"({better} better, {len(apart) - better} worse; about {_by_chance(len(rows))} would be so "
        f"by chance); after Holm's correction {kept or 'none'} "
        f"{'differs' if kept < 2 else 'differ'}. The largest of them: "
        f"{interval(largest.difference)} with {largest.setting}."
    )


def _by_chance(count: int) -> str:
    return f"{LEVEL * count:.1f}".rstrip("0").rstrip(".")


def _name(question: Question) -> str:
    return f"{question.name.capitalize()} ({question.contrast})"


def conclusions(chosen: Chosen, comparisons: Sequence[Comparison], metric: str) -> list[str]:
    """One for each question."""
    return [conclusion(chosen, comparisons, question, metric) for question in QUESTIONS]


def by_part(chosen: Chosen, metric: str) -> list[dict[str, str]]:
    """Each question for each optimiser and dtype, over its batch sizes."""
    places = sorted({(setting.optimizer, setting.dtype) for setting, _ in chosen})
    return [
        {
            "question": question.name,
            "difference": question.contrast,
            "setting": _part(optimizer, dtype),
            "mean and 95 % interval": interval(found),
            "reading": verdict(found),
        }
        for question in QUESTIONS
        for optimizer, dtype in places
        if (found := pooled(chosen, question, metric, dtype=dtype, optimizer=optimizer))
    ]


def _part(optimizer: Optimizer, dtype: Dtype) -> str:
    return f"{'AdamW' if optimizer == 'adamw' else 'SGD'}, {dtype}"


def edges(chosen: Chosen) -> str:
    """Whether the grids of learning rates were wide enough."""
    at_edge = sorted(
        f"{arm} with {setting}" for (setting, arm), best in chosen.items() if best.edge
    )
    if not at_edge:
        return "Every arm's best learning rate lies inside of its grid."
    listed = f": {'; '.join(at_edge)}" if len(at_edge) <= LISTED else ", marked in the table"
    return (
        f"In {len(at_edge)} of {len(chosen)} cases the best learning rate is the lowest or highest "
        f"that was tried, so a better one may lie beyond{listed}."
    )


def dropped(chosen: Chosen) -> str:
    """Whether updates were left out because their gradient was not finite."""
    counts = {
        f"{arm} with {setting}": sum(values["dropped"] for values in best.runs.values())
        for (setting, arm), best in chosen.items()
    }
    some = {name: count for name, count in counts.items() if count}
    if not some:
        return "No update was dropped: every gradient was finite."
    listed = "; ".join(f"{name}: {count}" for name, count in sorted(some.items()))
    return f"Updates dropped because their gradient was not finite: {listed}."
