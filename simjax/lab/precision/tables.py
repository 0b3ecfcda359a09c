"""The tables of the report, as rows of cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from simjax.lab.precision import answers
from simjax.lab.precision.comparisons import ARM_NAMES, Chosen, Comparison
from simjax.lab.precision.outcomes import MATTERS
from simjax.lab.precision.plots import FORM_NAMES
from simjax.lab.precision.settings import FORMS
from simjax.lab.reading import interval, p_value, verdict
from simjax.lab.records import Record
from simjax.lab.statistics import Spread

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
                if not (found := answers.errors(part, arithmetic, way, form)):
                    row[FORM_NAMES[form]] = "not measured"
                    continue
                error = answers.Middle.of(found).median
                cosine = answers.Middle.of(answers.errors(part, arithmetic, way, form, 1)).median
                row[FORM_NAMES[form]] = (
                    f"{error:.1e} ({cosine:.3f})" if math.isfinite(error) else "not finite"
                )
            rows.append(row)
    return rows


def errors_over_all(records: Sequence[Record]) -> Rows:
    """Quartiles of the error over all inputs, and on how many a form is wrong."""
    rows = []
    for arithmetic, way in answers.measured(records):
        for form in FORMS:
            found = answers.errors(records, arithmetic, way, form)
            middle = answers.Middle.of(found)
            wrong = sum(map(answers.is_wrong, found))
            lost = sum(map(math.isinf, found))
            rows.append(
                {
                    "arithmetic": arithmetic,
                    "way": way,
                    "form": FORM_NAMES[form],
                    "median error": answers.number(middle.median),
                    "middle half": f"{answers.number(middle.low)} to {answers.number(middle.high)}",
                    f"wrong (above {answers.WRONG:g})": f"{wrong} of {len(found)}",
                    "not finite": lost,
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


def scores(chosen: Sequence[Chosen]) -> Rows:
    """Each arm at its best rate for each score: mean and standard deviation over seeds.

    Alignment, uniformity, mean v and gradient norm are at the rate of the first score.
    """
    rows = []
    places = sorted(
        {place for one in chosen for place in one.best},
        key=lambda place: (place[0], list(ARM_NAMES).index(place[1])),
    )
    for setting, arm in places:
        row: dict[str, Any] = {"setting": str(setting), "arm": ARM_NAMES[arm]}
        for one in chosen:
            best = one.best[setting, arm]
            row[f"rate for {one.metric}"] = f"{best.rate:g}{' (edge)' if best.edge else ''}"
            row[one.metric] = plus_minus(best.spread(one.metric))
        best = chosen[0].best[setting, arm]
        for name in ("alignment", "uniformity"):
            row[name] = plus_minus(best.spread(name))
        for name, heading in (("mean_v", "mean v"), ("grad_norm", "gradient norm")):
            windows = [
                value
                for run in best.runs.values()
                for value in run["history"][name]
                if value is not None
            ]
            row[heading] = answers.number(Spread.of(windows).mean) if windows else "none finite"
        row["seeds"] = str(len(best.runs))
        if best.diverged:
            row["seeds"] += f" ({len(best.diverged)} diverged)"
        rows.append(row)
    return rows


def plus_minus(spread: Spread) -> str:
    """Mean and standard deviation; a single run has none."""
    if spread.count == 1:
        return f"{spread.mean:.2f}"
    return f"{spread.mean:.2f} ± {spread.deviation:.2f}"


def comparisons(found: Sequence[Comparison]) -> Rows:
    """Paired differences with their tests."""
    return [
        {
            "setting": str(row.setting),
            "question": row.question.name,
            "difference": row.question.contrast,
            "mean and 95 % interval": interval(row.difference),
            "deviation": f"{row.difference.deviation:.2g}",
            "pairs": row.difference.count,
            "t-test p": p_value(row.difference.t_test),
            "Holm p": p_value(row.difference.holm),
            "Wilcoxon p": p_value(row.difference.wilcoxon),
            "reading": verdict(row.difference, matters=MATTERS),
        }
        for row in found
    ]


def input_rows(records: Sequence[Record]) -> Rows:
    """One row for each input, arithmetic, way and form: what the CSV holds."""
    return [
        {**record.key, "arithmetic": arithmetic, "way": way, "form": form}
        | {"error": error, "cosine": cosine, "length": length}
        for record in records
        for arithmetic, ways in record.values["errors"].items()
        for way, forms in ways.items()
        for form, (error, cosine, length) in forms.items()
    ]


def run_rows(records: Sequence[Record]) -> Rows:
    """One row for each run: what the CSV holds."""
    return [
        {
            **record.key,
            **record.values["scores"],
            "diverged": record.values["diverged"],
            "dropped": record.values["dropped"],
        }
        for record in records
    ]
