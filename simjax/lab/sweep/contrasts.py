"""What changes when one thing does, paired by seed."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from simjax.lab.reading import interval, p_value, verdict
from simjax.lab.statistics import Difference, difference, holm
from simjax.lab.sweep.outcomes import Outcomes

S = TypeVar("S", bound=Hashable)
NOT_MEASURED = "not measured: no seed has a score on both sides"


class Contrast(NamedTuple, Generic[S]):
    """A question.

    Attributes:
        axis: What is varied, in a word or two.
        name: What for what, and what is the same in both, in words.
        pairs: (changed, as it was): settings that differ in that alone.
    """

    axis: str
    name: str
    pairs: Sequence[tuple[S, S]]


@dataclass(frozen=True)
class Effect(Generic[S]):
    """One side of a contrast minus the other, means over pairs of settings before seeds.

    Attributes:
        contrast: The question.
        difference: Of the metric, over the seeds that all of its settings have; None without one.
        diverged: Runs of its settings that did; no side of it has their seeds.
    """

    contrast: Contrast[S]
    difference: Difference | None
    diverged: int


def effects(outcomes: Outcomes[S], contrasts: Iterable[Contrast[S]]) -> list[Effect[S]]:
    """Every contrast as far as it was measured, p corrected together by Holm."""
    found = [_measured(outcomes, contrast) for contrast in contrasts]
    corrected = iter(holm([one.difference for one in found if one.difference is not None]))
    return [
        one if one.difference is None else replace(one, difference=next(corrected)) for one in found
    ]


def _measured(outcomes: Outcomes[S], contrast: Contrast[S]) -> Effect[S]:
    scores = [tuple(outcomes.scores(setting) for setting in pair) for pair in contrast.pairs]
    seeds = sorted(set.intersection(*(set(side) for pair in scores for side in pair)))
    settings = {setting for pair in contrast.pairs for setting in pair}
    diverged = sum(run["diverged"] for s in settings for run in outcomes.runs.get(s, {}).values())
    if not seeds:
        return Effect(contrast, None, diverged)
    sides = [
        [float(np.mean([pair[side][seed] for pair in scores])) for seed in seeds] for side in (0, 1)
    ]
    return Effect(contrast, difference(*sides), diverged)


def reading(found: Effect[S], outcomes: Outcomes[S]) -> str:
    """What the seeds say about a contrast."""
    if found.difference is None:
        return NOT_MEASURED
    return verdict(found.difference, higher_is_better=outcomes.higher_is_better)


def sentence(found: Effect[S], outcomes: Outcomes[S]) -> str:
    """One contrast as a sentence."""
    said = f"{found.contrast.name}: {reading(found, outcomes)}."
    if found.difference is not None:
        count = found.difference.count
        over = f"{count} seed{'s' if count > 1 else ''}"
        if len(found.contrast.pairs) > 1:
            over += f", means over {len(found.contrast.pairs)} pairs of settings"
        said += f" It changes {interval(found.difference)}; {over}."
    if found.diverged:
        said += f" Left out on both sides: seeds of which runs diverged ({found.diverged})."
    return said


def rows(found: Sequence[Effect[S]], outcomes: Outcomes[S]) -> list[dict[str, Any]]:
    """One row for each contrast."""
    return [
        {
            "contrast": one.contrast.name,
            "varied": one.contrast.axis,
            "pairs of settings": len(one.contrast.pairs),
            "seeds": 0 if one.difference is None else one.difference.count,
            "diverged": one.diverged or "",
            "mean and 95 % interval": "" if one.difference is None else interval(one.difference),
            "Holm p": "" if one.difference is None else p_value(one.difference.holm),
            "reading": reading(one, outcomes),
        }
        for one in found
    ]
