"""Runs as rows: each by itself, and the means and spreads of each setting over its seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from simjax.eval import tasks
from simjax.lab.records import Record, identity
from simjax.lab.statistics import Spread
from simjax.lab.sweep.keys import Key

S = TypeVar("S", bound=Hashable)
Runs = dict[S, dict[int, dict[str, Any]]]


@dataclass(frozen=True)
class Outcomes(Generic[S]):
    """The runs of a study, by setting and seed.

    Attributes:
        runs: Values of each, those that diverged among them; settings in the order of `planned`.
        metric: The score that tells how good a run is.
        planned: The runs that were asked for.
    """

    runs: Runs[S]
    metric: str
    planned: tuple[Key, ...]

    @property
    def settings(self) -> list[S]:
        """Those with a run, in order."""
        return list(self.runs)

    @property
    def missing(self) -> int:
        """Runs that were asked for and are not there."""
        return len(self.planned) - sum(map(len, self.runs.values()))

    def name(self, measure: str) -> str:
        """A measure of the set that the metric is of, such as `stsb-dev/alignment`."""
        return f"{self.metric.rsplit('/', 1)[0]}/{measure}"

    def scores(self, setting: S, name: str | None = None) -> dict[int, float]:
        """A score, by default the metric, of the runs that did not diverge, by seed."""
        name = self.metric if name is None else name
        return {
            seed: values["scores"][name]
            for seed, values in self.runs.get(setting, {}).items()
            if name in values["scores"]
        }

    def values(self, setting: S, name: str) -> list[float]:
        """A figure of the runs of a setting that have it."""
        found = [values[name] for values in self.runs.get(setting, {}).values()]
        return [value for value in found if value is not None]

    @property
    def higher_is_better(self) -> bool:
        """Of the metric."""
        return tasks.higher_is_better(self.metric)


def by_setting(records: Iterable[Record], planned: Sequence[Any]) -> Runs[Any]:
    """The values of the records that were asked for, by setting and seed, in the order given."""
    values = {identity(record.key): record.values for record in records}
    found: Runs[Any] = {}
    for key in planned:
        text = identity(dataclasses.asdict(key))
        if text in values:
            found.setdefault(key.setting, {})[key.seed] = values[text]
    return found


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and standard deviation."""
    if not values:
        return "diverged"
    found = Spread.of(values)
    if found.count == 1:
        return f"{found.mean:,.{digits}f} (one seed)"
    return f"{found.mean:,.{digits}f} ± {found.deviation:.{digits}f}"


def quality(outcomes: Outcomes[S], heading: Callable[[S], dict[str, str]]) -> list[dict[str, str]]:
    """Scores of each setting: mean and standard deviation over seeds.

    Args:
        outcomes: The runs.
        heading: What a row begins with.
    """
    rows = []
    for setting in outcomes.settings:
        row = heading(setting) | {
            "seeds": str(len(outcomes.runs[setting])),
            outcomes.metric: spread(list(outcomes.scores(setting).values())),
        }
        for measure in ("alignment", "uniformity"):
            found = list(outcomes.scores(setting, outcomes.name(measure)).values())
            if found:
                row[measure] = spread(found, 3)
        lost = sum(values["diverged"] for values in outcomes.runs[setting].values())
        row["diverged"] = str(lost or "")
        rows.append(row)
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name, "") for name in columns} for row in rows]


def run_rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """One row for each run: what the CSV holds."""
    rows = []
    for record in records:
        values = record.values
        row = {**record.key, **values["scores"]}
        for name in (
            *("diverged", "steps", "loss", "pairs_per_second", "memory", "noise", "signal"),
        ):
            row[name] = values[name]
        rows.append(row)
    return rows
