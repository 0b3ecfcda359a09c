"""What is compared: batches, negatives, learning-rate rules, objectives, all else being equal."""

from __future__ import annotations

from collections.abc import Iterator

from simjax.lab.scaling.grid import OBJECTIVE_NAMES, Setting
from simjax.lab.scaling.tables import Outcomes
from simjax.lab.sweep.contrasts import Contrast


def contrasts(outcomes: Outcomes) -> Iterator[Contrast[Setting]]:
    """Every contrast of the study."""
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
                    yield Contrast(
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
                yield Contrast(
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
                name = f"{label}: {rule} for constant learning rate"
                yield Contrast("learning rate", name, pairs)
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
            yield Contrast("objective", f"{names[0]} for {names[1]}", pairs)
