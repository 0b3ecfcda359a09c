"""The tables of the report, as rows of cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simjax.lab.precision import answers
from simjax.lab.precision.arms import FORMS
from simjax.lab.precision.comparisons import ARM_NAMES, Best, Comparison, Setting
from simjax.lab.precision.outcomes import interval, verdict
from simjax.lab.precision.plots import FORM_NAMES
from simjax.lab.precision.records import Record
from simjax.lab.precision.settings import Arm
from simjax.lab.precision.statistics import Spread

Rows = list[dict[str, Any]]


def reference_setting(records: Sequence[Record]) -> tuple[float, float]:
    """The temperature and the noise of the plots: 0.05 and the easiest positives, if measured."""
    temperatures = sorted({record.key["temperature"] for record in records})
    temperature = min(temperatures, key=lambda value: abs(value - 0.05))
    return temperature, min(record.key["noise"] for record in records)


def errors(records: Sequence[Record], temperature: float, noise: float) -> Rows:
    """Median error and cosine of each form by batch size, at one temperature and hardness."""
    chosen = [
        record
        for record in records
        if (record.key["temperature"], record.key["noise"]) == (temperature, noise)
    ]
    rows = []
    for arithmetic, way in answers.measured(chosen):
        for batch in sorted({record.key["batch"] for record in chosen}):
            part = [record for record in chosen if record.key["batch"] == batch]
            row: dict[str, Any] = {"arithmetic": arithmetic, "way": way, "batch": f"{batch:,}"}
            for form in FORMS:
                found = [record.values["errors"][arithmetic][way][form] for record in part]
                error = answers.Middle.of([one[0] for one in found]).median
                cosine = answers.Middle.of([one[1] for one in found]).median
                row[FORM_NAMES[form]] = f"{error:.1e} ({cosine:.3f})"
            rows.append(row)
    return rows


def errors_over_all(records: Sequence[Record]) -> Rows:
    """Quartiles of the error over all inputs, and on how many a form is wrong."""
    rows = []
    for arithmetic, way in answers.measured(records):
        for form in FORMS:
            found = answers.errors(records, arithmetic, way, form)
            middle = answers.Middle.of(found)
            wrong = sum(value > answers.WRONG for value in found)
            rows.append(
                {
                    "arithmetic": arithmetic,
                    "way": way,
                    "form": FORM_NAMES[form],
                    "median error": f"{middle.median:.1e}",
                    "middle half": f"{middle.low:.1e} to {middle.high:.1e}",
                    f"wrong (above {answers.WRONG:g})": f"{wrong} of {len(found)}",
                }
            )
    return rows


def vanishing(records: Sequence[Record]) -> Rows:
    """Exact figures by batch size, temperature and hardness: medians over draws."""
    places = sorted({tuple(r.key[k] for k in ("batch", "temperature", "noise")) for r in records})
    rows = []
    for place in places:
        part = [
            r
            for r in records
            if tuple(r.key[k] for k in ("batch", "temperature", "noise")) == place
        ]
        middles = {
            name: answers.number(answers.Middle.of(answers.exact_figures(part, name)).median)
            for name in ("mean_v", "mean_weight", "weight_cv", "length_ratio", "cosine")
        }
        batch, temperature, noise = place
        rows.append(
            {
                "batch": f"{batch:,}",
                "temperature": temperature,
                "noise": noise,
                "mean v": middles["mean_v"],
                "mean sigmoid(v)": middles["mean_weight"],
                "its deviation / mean": middles["weight_cv"],
                "length InfoNCE / FlatNCE": middles["length_ratio"],
                "cosine": middles["cosine"],
            }
        )
    return rows


def scores(chosen: dict[tuple[Setting, Arm], Best], metrics: Sequence[str]) -> Rows:
    """Each arm at its best rate: mean and standard deviation over seeds."""
    rows = []
    for setting, arm in sorted(
        chosen, key=lambda place: (place[0], list(ARM_NAMES).index(place[1]))
    ):
        best = chosen[setting, arm]
        runs = list(best.runs.values())
        row: dict[str, Any] = {
            "setting": str(setting),
            "arm": ARM_NAMES[arm],
            "rate": f"{best.rate:g}{' (edge)' if best.edge else ''}",
            "seeds": len(runs),
        }
        for metric in metrics:
            row[metric] = _plus_minus(best.spread(metric))
        for name, heading in (("mean_v", "mean v"), ("grad_norm", "gradient norm")):
            means = [sum(run["history"][name]) / len(run["history"][name]) for run in runs]
            row[heading] = answers.number(Spread.of(means).mean)
        rows.append(row)
    return rows


def _plus_minus(spread: Spread) -> str:
    return f"{spread.mean:.2f} ± {spread.deviation:.2f}"


def comparisons(found: Sequence[Comparison], metric: str) -> Rows:
    """Paired differences with their tests."""
    return [
        {
            "setting": str(row.setting),
            "question": row.question.name,
            "difference": row.question.contrast,
            "mean and 95 % interval": interval(row.difference),
            "deviation": f"{row.difference.deviation:.2f}",
            "t-test p": f"{row.difference.t_test:.3g}",
            "Holm p": f"{row.difference.holm:.3g}",
            "Wilcoxon p": f"{row.difference.wilcoxon:.3g}",
            "reading": verdict(row.difference),
        }
        for row in found
        if row.metric == metric
    ]


def run_rows(records: Sequence[Record]) -> Rows:
    """One row for each run: what the CSV holds."""
    return [
        {
            **record.key,
            **record.values["scores"],
            "dropped": record.values["dropped"],
            **{
                f"{name}_{place}": value
                for name, values in record.values["history"].items()
                for place, value in (("first", values[0]), ("last", values[-1]))
            },
        }
        for record in records
    ]
