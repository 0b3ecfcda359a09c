"""Runs as rows and comparisons, as this study's tables have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from simjax.lab.reading import interval
from simjax.lab.records import Record
from simjax.lab.statistics import Spread
from simjax.lab.sweep import outcomes as sweep
from simjax.lab.sweep.contrasts import Contrast, Effect, reading
from simjax.lab.sweep.outcomes import spread
from simjax.lab.views.arms import ARMS, BASELINE, TABLES, RunKey, Setting, Table

FIRST = Setting(BASELINE)


@dataclass(frozen=True)
class Outcomes(sweep.Outcomes[Setting]):
    """The runs of a study, by arm and seed."""

    @classmethod
    def of(cls, records: Iterable[Record], planned: Sequence[RunKey], metric: str) -> Outcomes:
        """Of the records that were asked for, in the order of the arms."""
        order = list(ARMS)
        inorder = tuple(sorted(planned, key=lambda key: (order.index(key.arm), key.seed)))
        return cls(sweep.by_setting(records, inorder), metric, inorder)

    def of_table(self, table: Table) -> list[Setting]:
        """The arms of a table that have a run."""
        return [setting for setting in self.settings if table in ARMS[setting.arm].tables]

    def path(self, setting: Setting, *measures: str) -> list[tuple[float, ...]]:
        """How some measures went, means over seeds: a point for each evaluation."""
        names = [self.name(measure) for measure in measures]
        runs = [
            [[point[name] for name in names] for point in values["trajectory"]]
            for values in self.runs[setting].values()
            if not values["diverged"]
            and all(name in point for point in values["trajectory"] for name in names)
        ]
        if not runs:
            return []
        steps = min(map(len, runs))
        return [
            tuple(Spread.of([run[step][place] for run in runs]).mean for place in range(len(names)))
            for step in range(steps)
        ]


def contrasts(outcomes: Outcomes) -> Iterator[Contrast[Setting]]:
    """Every arm against dropout alone; one that is in several tables is compared once."""
    for table in TABLES:
        for setting in outcomes.of_table(table):
            if setting != FIRST:
                name = f"{setting} for {FIRST}"
                yield Contrast(table, name, [(setting, FIRST)])


def rows(
    table: Table, outcomes: Outcomes, effects: Sequence[Effect[Setting]]
) -> list[dict[str, Any]]:
    """One of the three tables: an arm to a row."""
    effect_of = {one.contrast.pairs[0][0]: one for one in effects}
    published = any(ARMS[s.arm].published for s in outcomes.of_table(table) if s != FIRST)
    found = []
    for setting in outcomes.of_table(table):
        effect = effect_of.get(setting)
        row: dict[str, Any] = {
            "arm": _named(setting, table),
            "seeds": len(outcomes.runs[setting]),
            outcomes.metric: spread(list(outcomes.scores(setting).values())),
        }
        for measure in ("alignment", "uniformity"):
            scores = list(outcomes.scores(setting, outcomes.name(measure)).values())
            row[measure] = spread(scores, 3) if scores else ""
        difference = None if effect is None else effect.difference
        row["against dropout alone"] = "" if difference is None else interval(difference)
        row["reading"] = "" if effect is None else reading(effect, outcomes)
        if published:
            row["SimCSE, BERT-base"] = ARMS[setting.arm].published or ""
        found.append(row)
    return found


def _named(setting: Setting, table: Table) -> str:
    arm = ARMS[setting.arm]
    if setting != FIRST:
        return arm.words
    own = {"dropout": f"dropout {arm.dropout:g}", "temperature": f"temperature {arm.temperature:g}"}
    return own.get(table, arm.words)


def path_rows(outcomes: Outcomes) -> list[dict[str, Any]]:
    """Every evaluation of every run: what the CSV of trajectories holds."""
    return [
        {"arm": setting.arm, "seed": seed} | point
        for setting in outcomes.settings
        for seed, values in outcomes.runs[setting].items()
        for point in values["trajectory"]
    ]
