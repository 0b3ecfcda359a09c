"""What changes when one thing does: batch, negatives, learning-rate rule, objective; by seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from simjax.lab.precision.statistics import Difference, difference, holm
from simjax.lab.scaling.grid import OBJECTIVE_NAMES, Setting
from simjax.lab.scaling.tables import Outcomes


@dataclass(frozen=True)
class Effect:
    """One side of a contrast minus the other, means over pairs of settings before seeds.

    Attributes:
        axis: What is varied: `batch`, `negatives`, `learning rate` or `objective`.
        name: The contrast in words.
        pairs: (changed, as it was): settings that differ in that alone.
        difference: Of the metric, over the seeds that all of them have; None without one.
    """

    axis: str
    name: str
    pairs: tuple[tuple[Setting, Setting], ...]
    difference: Difference | None


def effects(outcomes: Outcomes) -> list[Effect]:
    """Every contrast of the study, p corrected together by Holm."""
    found = [_measured(outcomes, *one) for one in _contrasts(outcomes)]
    corrected = iter(holm([one.difference for one in found if one.difference is not None]))
    return [
        one if one.difference is None else dataclasses.replace(one, difference=next(corrected))
        for one in found
    ]


def _measured(
    outcomes: Outcomes, axis: str, name: str, pairs: list[tuple[Setting, Setting]]
) -> Effect:
    scores = [tuple(outcomes.scores(setting) for setting in pair) for pair in pairs]
    seeds = sorted(set.intersection(*(set(side) for pair in scores for side in pair)))
    if not seeds:
        return Effect(axis, name, tuple(pairs), None)
    sides = [
        [float(np.mean([pair[side][seed] for pair in scores])) for seed in seeds] for side in (0, 1)
    ]
    return Effect(axis, name, tuple(pairs), difference(*sides))


def _contrasts(
    outcomes: Outcomes,
) -> Iterator[tuple[str, str, list[tuple[Setting, Setting]]]]:
    settings = set(outcomes.settings)
    objectives = list(dict.fromkeys(s.objective for s in outcomes.settings))
    rules = [r for r in ("constant", "sqrt", "linear") if any(s.lr_rule == r for s in settings)]
    batches = sorted({s.batch for s in settings})

    def there(pairs: list[tuple[Setting, Setting]]) -> list[tuple[Setting, Setting]]:
        return [pair for pair in pairs if settings.issuperset(pair) and pair[0] != pair[1]]

    for objective in objectives:
        label = OBJECTIVE_NAMES.get(objective, objective)
        for group in sorted({s.group for s in settings}):
            of = sorted({s.batch for s in settings if s.group == group})
            for rule in rules if len(of) > 1 else ():
                high, low = (
                    outcomes.at(objective, batch, group, rule) for batch in (of[-1], of[0])
                )
                if pairs := there([(high, low)]):
                    yield (
                        "batch",
                        f"{label}: batch {of[-1]:,} for {of[0]:,}, negatives of {group:,} in both, "
                        f"{rule} learning rate",
                        pairs,
                    )
        for batch in batches:
            groups = sorted({s.group for s in settings if s.batch == batch})
            pairs = there(
                [
                    (
                        outcomes.at(objective, batch, groups[-1], rule),
                        outcomes.at(objective, batch, groups[0], rule),
                    )
                    for rule in rules
                ]
            )
            if pairs:
                yield (
                    "negatives",
                    f"{label}: negatives of {groups[-1]:,} for {groups[0]:,}, batch {batch:,} in "
                    "both",
                    list(dict.fromkeys(pairs)),
                )
        for rule in rules:
            pairs = there(
                [
                    (s, s._replace(lr_rule="constant"))
                    for s in outcomes.settings
                    if s.objective == objective and s.lr_rule == rule and rule != "constant"
                ]
            )
            if pairs:
                yield "learning rate", f"{label}: {rule} for constant learning rate", pairs
    for objective in objectives[1:]:
        pairs = there(
            [
                (s, s._replace(objective=objectives[0]))
                for s in outcomes.settings
                if s.objective == objective
            ]
        )
        if pairs:
            names = [OBJECTIVE_NAMES.get(one, one) for one in (objective, objectives[0])]
            yield "objective", f"{names[0]} for {names[1]}", pairs
