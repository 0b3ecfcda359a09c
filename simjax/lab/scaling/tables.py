"""Runs as rows: each by itself, and the means and spreads of each setting over its seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simjax.lab.precision.records import Record
from simjax.lab.precision.statistics import Spread
from simjax.lab.scaling.grid import OBJECTIVE_NAMES, RunKey, Setting


@dataclass(frozen=True)
class Outcomes:
    """The runs of a study, by setting and seed.

    Attributes:
        runs: Values of each, those that diverged among them.
        metric: The score that tells how good a run is.
        planned: The runs that were asked for.
        micro_batch: Examples that a device encodes at a time.
        base_batch: At which all learning-rate rules are one.
    """

    runs: dict[Setting, dict[int, dict[str, Any]]]
    metric: str
    planned: tuple[RunKey, ...]
    micro_batch: int
    base_batch: int

    @classmethod
    def of(
        cls,
        records: Iterable[Record],
        planned: Sequence[RunKey],
        metric: str,
        *,
        micro_batch: int,
        base_batch: int,
    ) -> Outcomes:
        """Of the records that were asked for."""
        values = {RunKey(**record.key): record.values for record in records}
        found: dict[Setting, dict[int, dict[str, Any]]] = {}
        for key in sorted(planned, key=lambda key: (key.setting, key.seed)):
            if key in values:
                found.setdefault(key.setting, {})[key.seed] = values[key]
        return cls(found, metric, tuple(planned), micro_batch, base_batch)

    @property
    def settings(self) -> list[Setting]:
        """Those with a run, in order of objective, batch, group and rule."""
        order = {key.objective: place for place, key in reversed(list(enumerate(self.planned)))}
        rules = ("constant", "sqrt", "linear")
        return sorted(
            self.runs, key=lambda s: (order[s.objective], s.batch, s.group, rules.index(s.lr_rule))
        )

    @property
    def missing(self) -> int:
        """Runs that were asked for and are not there."""
        return len(self.planned) - sum(map(len, self.runs.values()))

    def name(self, measure: str) -> str:
        """A measure of the set that the metric is of, such as `stsb-dev/alignment`."""
        return f"{self.metric.rsplit('/', 1)[0]}/{measure}"

    def scores(self, setting: Setting, name: str | None = None) -> dict[int, float]:
        """A score, by default the metric, of the runs that did not diverge, by seed."""
        name = self.metric if name is None else name
        return {
            seed: values["scores"][name]
            for seed, values in self.runs.get(setting, {}).items()
            if name in values["scores"]
        }

    def values(self, setting: Setting, name: str) -> list[float]:
        """A figure of the runs of a setting that have it."""
        found = [values[name] for values in self.runs.get(setting, {}).values()]
        return [value for value in found if value is not None]

    def at(self, objective: str, batch: int, group: int, lr_rule: str) -> Setting:
        """A setting under a rule; at the base batch that is the one of all rules."""
        rule = "constant" if batch == self.base_batch else lr_rule
        return Setting(objective, batch, group, rule)

    def unbiased(self, setting: Setting) -> bool:
        """Whether the estimate of the noise is: no negative crosses a micro-batch."""
        return self.micro_batch % setting.group == 0

    @property
    def higher_is_better(self) -> bool:
        """Of the metric."""
        return self.metric.rsplit("/", 1)[-1] not in ("alignment", "uniformity")


@dataclass(frozen=True)
class Critical:
    """The batch at which the noise of the gradient is as large as its signal.

    Attributes:
        batch: B times the mean noise over the mean signal, means over steps and seeds; infinite
            where no signal rises above the noise.
        low: Least of the same of each seed alone.
        high: Largest.
    """

    batch: float
    low: float
    high: float

    def __str__(self) -> str:
        if not math.isfinite(self.batch):
            return "no signal above the noise"
        if self.low == self.high:
            return f"{self.batch:,.0f}"
        return f"{self.batch:,.0f} ({self.low:,.0f} to {_number(self.high)})"


def critical(outcomes: Outcomes, setting: Setting) -> Critical | None:
    """The critical batch of a setting, None where noise was not measured.

    A simple noise scale, tr(covariance of an example's gradient) / |mean gradient|^2 (McCandlish et
    al. 2018, arXiv 1812.06162): the noise of a batch's gradient is 1 / B of an example's.
    """
    runs = [
        (values["noise"], values["signal"])
        for values in outcomes.runs[setting].values()
        if values["noise"] is not None and values["signal"] is not None
    ]
    if not runs:
        return None
    means = np.mean(np.asarray(runs, np.float64), axis=0)
    alone = [_ratio(setting.batch, noise, signal) for noise, signal in runs]
    return Critical(_ratio(setting.batch, *means), min(alone), max(alone))


def _ratio(batch: int, noise: float, signal: float) -> float:
    return float(batch * max(noise, 0.0) / signal) if signal > 0 else math.inf


def _number(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "no bound"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and standard deviation."""
    if not values:
        return "diverged"
    found = Spread.of(values)
    if found.count == 1:
        return f"{found.mean:,.{digits}f} (one seed)"
    return f"{found.mean:,.{digits}f} ± {found.deviation:.{digits}f}"


def quality(outcomes: Outcomes) -> list[dict[str, str]]:
    """Scores of each setting: mean and standard deviation over seeds."""
    rows = []
    for setting in outcomes.settings:
        row = _heading(setting) | {
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


def cost(outcomes: Outcomes) -> list[dict[str, str]]:
    """Speed and memory of each batch and group, over objectives, rules and seeds."""
    rows = []
    for batch, group in dict.fromkeys((s.batch, s.group) for s in outcomes.settings):
        of = [s for s in outcomes.settings if (s.batch, s.group) == (batch, group)]
        speeds = [x for s in of for x in outcomes.values(s, "pairs_per_second")]
        taken = [x for s in of for x in outcomes.values(s, "memory")]
        rows.append(
            {
                "batch": f"{batch:,}",
                "negatives of": "all" if group == batch else f"{group:,}",
                "runs": str(len(speeds)),
                "examples per second": spread(speeds, 1),
                "memory of a step, MB": f"{max(taken) / 1e6:,.1f}" if taken else "not measured",
            }
        )
    return rows


def noise(outcomes: Outcomes) -> list[dict[str, str]]:
    """Critical batches of each setting of which noise was measured."""
    rows = []
    for setting in outcomes.settings:
        found = critical(outcomes, setting)
        if found is not None:
            course = [
                Critical(ratio, ratio, ratio)
                for ratio in critical_along(list(outcomes.runs[setting].values()), setting.batch)
            ]
            rows.append(
                _heading(setting)
                | {
                    "critical batch (seeds from, to)": str(found),
                    "in the run's first to last quarter": ", ".join(map(str, course)),
                    "estimate": "unbiased" if outcomes.unbiased(setting) else "biased",
                }
            )
    return rows


def critical_along(runs: Sequence[dict[str, Any]], batch: int) -> list[float]:
    """Critical batches in the parts of the runs of a setting, means over seeds before dividing."""
    parts = min((len(values["noise_parts"]) for values in runs), default=0)
    return [
        _ratio(
            batch,
            float(np.mean([values["noise_parts"][part] for values in runs])),
            float(np.mean([values["signal_parts"][part] for values in runs])),
        )
        for part in range(parts)
    ]


def _heading(setting: Setting) -> dict[str, str]:
    return {
        "objective": OBJECTIVE_NAMES.get(setting.objective, setting.objective),
        "batch": f"{setting.batch:,}",
        "negatives of": "all" if setting.group == setting.batch else f"{setting.group:,}",
        "learning rate": setting.lr_rule,
    }


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
        if values["noise"] is not None and values["signal"] is not None:
            found = _ratio(record.key["batch"], values["noise"], values["signal"])
            row["critical_batch"] = found if math.isfinite(found) else None
        rows.append(row)
    return rows
