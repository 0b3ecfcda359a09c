"""Gradient noise: critical batches of settings, as rows and in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simjax.lab.records import Record
from simjax.lab.scaling.grid import OBJECTIVE_NAMES, Setting
from simjax.lab.scaling.tables import Outcomes, heading
from simjax.lab.sweep import outcomes as sweep

BIAS = (
    "Noise is measured from what each micro-batch adds to the gradient of the whole batch's loss. "
    "The parts of a batch are dealt like lengths, so that what length alone explains of the "
    "examples' gradients is not seen. But for that share it is without bias where no negative "
    "crosses a micro-batch (groups that divide the micro-batch). Elsewhere two examples of "
    "different micro-batches that push each other away are one random event that is counted in "
    "both: noise, and with it the critical batch, comes out too large (about twice was measured on "
    "a random encoder with few texts), sometimes so much that no signal seems left."
)


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
    runs = [(values["noise"], values["signal"]) for values in _measured(outcomes, setting)]
    if not runs:
        return None
    means = np.mean(np.asarray(runs, np.float64), axis=0)
    alone = [_ratio(setting.batch, noise, signal) for noise, signal in runs]
    return Critical(_ratio(setting.batch, *means), min(alone), max(alone))


def _measured(outcomes: Outcomes, setting: Setting) -> list[dict[str, Any]]:
    """The runs of a setting with noise and signal, without those that were on their way to none."""
    return [
        values
        for values in outcomes.runs[setting].values()
        if not values["diverged"] and None not in (values["noise"], values["signal"])
    ]


def _ratio(batch: int, noise: float, signal: float) -> float:
    return float(batch * max(noise, 0.0) / signal) if signal > 0 else math.inf


def _number(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "no bound"


def rows(outcomes: Outcomes) -> list[dict[str, str]]:
    """Critical batches of each setting of which noise was measured."""
    rows = []
    for setting in outcomes.settings:
        found = critical(outcomes, setting)
        if found is not None:
            course = [
                Critical(ratio, ratio, ratio)
                for ratio in critical_along(_measured(outcomes, setting), setting.batch)
            ]
            rows.append(
                heading(setting)
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


def run_rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """One row for each run: what the CSV holds."""
    records = list(records)
    rows = sweep.run_rows(records)
    for row, record in zip(rows, records, strict=True):
        values = record.values
        if values["noise"] is not None and values["signal"] is not None:
            found = _ratio(record.key["batch"], values["noise"], values["signal"])
            row["critical_batch"] = found if math.isfinite(found) else None
    return rows


def conclusions(outcomes: Outcomes) -> list[str]:
    """What the gradient noise suggests for the batch, unbiased estimates apart from others."""
    lines = []
    for objective in dict.fromkeys(s.objective for s in outcomes.settings):
        for unbiased in (True, False):
            found = {
                s: one
                for s in outcomes.settings
                if s.objective == objective
                and outcomes.unbiased(s) == unbiased
                and (one := critical(outcomes, s)) is not None
            }
            if not found:
                continue
            finite = [one.batch for one in found.values() if math.isfinite(one.batch)]
            name = OBJECTIVE_NAMES.get(objective, objective)
            how = "unbiased" if unbiased else "biased upwards"
            if not finite:
                lines.append(f"{name} ({how}): no signal above the noise in {len(found)} settings.")
                continue
            lowest, highest = min(finite), max(finite)
            batches = sorted({s.batch for s in found})
            said = (
                f"{name} ({how}): a critical batch of {_span(lowest, highest)} over "
                f"{len(found)} settings"
            )
            if len(finite) < len(found):
                said += f", and no signal above the noise in {len(found) - len(finite)} of them"
            if unbiased and len(finite) == len(found):
                along = [critical_along(_measured(outcomes, s), s.batch) for s in found]
                first, last = ([parts[end] for parts in along] for end in (0, -1))
                said += (
                    f", {_span(min(first), max(first))} in their first quarter and "
                    f"{_span(min(last), max(last))} in their last"
                )
                # As far as quarters agree, and seeds, each of them alone: large gradients at the
                # beginning decide what the mean over a run is.
                several = [x for parts in along for x in parts]
                low = min(*(one.low for one in found.values()), *several)
                high = max(*(one.high for one in found.values()), *several)
                said += f"; {_advice(batches, low, high)}"
            lines.append(f"{said}.")
    return lines


def _span(low: float, high: float) -> str:
    return _number(low) if f"{low:.0f}" == f"{high:.0f}" else f"{_number(low)} to {_number(high)}"


def _advice(batches: list[int], low: float, high: float) -> str:
    above = [batch for batch in batches if batch > high]
    below = [batch for batch in batches if batch < low]
    parts = []
    if below:
        parts.append(
            f"batches of {', '.join(f'{x:,}' for x in below)} lie below all of these, where twice "
            "the batch does nearly the work of two updates"
        )
    if above:
        parts.append(
            f"batches of {', '.join(f'{x:,}' for x in above)} lie above all of these, where a "
            "larger batch saves few updates"
        )
    return "; ".join(parts) or "no batch lies below or above all of these with every seed"
