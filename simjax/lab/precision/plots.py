"""The plots of the study, and what each of them shows, in words from its own numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from simjax.lab.plots import Plot, legend, panels, plain_ticks, png
from simjax.lab.precision import answers
from simjax.lab.precision.comparisons import (
    ARM_NAMES,
    QUESTIONS,
    Chosen,
    Comparison,
    Setting,
    optimizer_name,
)
from simjax.lab.precision.outcomes import METRICS
from simjax.lab.precision.settings import ROUNDOFF
from simjax.lab.records import Record

FORM_NAMES = {
    "cross_entropy": "cross-entropy",
    "lse_minus_positive": "logsumexp - positive",
    "softplus": "softplus(v)",
    "dcl": "DCL",
    "flatnce": "FlatNCE",
}
_COLOURS = {
    "cross_entropy": "tab:red",
    "lse_minus_positive": "tab:orange",
    "softplus": "tab:blue",
    "rescaled": "tab:purple",
    "dcl": "tab:olive",
    "flatnce": "tab:green",
}
_STYLES: dict[str, dict[str, Any]] = {
    # Wide and marked, so that what lies under a thin line is seen on either side of it.
    "cross_entropy": {"linestyle": "-", "linewidth": 3.5, "marker": "s", "alpha": 0.6},
    "lse_minus_positive": {"linestyle": ":", "linewidth": 1.8, "marker": "x"},
    "softplus": {"linestyle": "-", "linewidth": 1.4, "marker": "o"},
    "rescaled": {"linestyle": "-.", "linewidth": 1.4, "marker": "^"},
    "dcl": {"linestyle": "-", "linewidth": 3.5, "marker": "D", "alpha": 0.6},
    "flatnce": {"linestyle": "--", "linewidth": 1.4, "marker": "v"},
}


def _drawn(values: Sequence[float]) -> list[float]:
    """What a logarithmic axis can show; the rest is a gap."""
    return [value if 0 < value < math.inf else math.nan for value in values]


def errors_by_batch(records: Sequence[Record], temperature: float, noise: float) -> Plot:
    """Error of each form against the batch size, at one temperature and hardness."""
    chosen = [
        record
        for record in records
        if record.key["temperature"] == temperature and record.key["noise"] == noise
    ]
    shown = answers.measured(chosen)
    columns = min(4, len(shown))
    figure, axes = panels(-(-len(shown) // columns), columns, sharex=True, sharey=True)
    batches = sorted({record.key["batch"] for record in chosen})
    for axis, (arithmetic, way) in zip(axes.flat, shown, strict=False):
        for form, name in FORM_NAMES.items():
            found = {
                batch: answers.errors(
                    [r for r in chosen if r.key["batch"] == batch], arithmetic, way, form
                )
                for batch in batches
            }
            medians = [
                answers.Middle.of(values).median if values else math.nan
                for values in found.values()
            ]
            axis.loglog(
                batches, _drawn(medians), color=_COLOURS[form], label=name, markersize=4,
                **_STYLES[form],
            )  # fmt: skip
        plain_ticks(axis, batches)
        axis.axhline(answers.WRONG, color="0.7", linewidth=0.8)
        axis.set_title(f"{arithmetic}, {way}", fontsize=10)
        axis.set_xlabel("batch size")
    for axis in axes[:, 0]:
        axis.set_ylabel("relative error of the gradient")
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    legend(figure, axes[0, 0], len(FORM_NAMES))
    small = [record for record in chosen if record.key["batch"] == batches[0]]
    large = [record for record in chosen if record.key["batch"] == batches[-1]]
    ends = [
        answers.number(answers.Middle.of(answers.errors(part, "float32", "dense", form)).median)
        for form in ("cross_entropy", "softplus")
        for part in (small, large)
    ]
    caption = (
        f"Median relative error of the query gradient at temperature {temperature:g} and positives "
        f"at noise {noise:g}. From batch {batches[0]:,} to {batches[-1]:,}, dense and in float32, "
        f"cross-entropy's goes from {ends[0]} to {ends[1]} and softplus(v)'s from {ends[2]} to "
        f"{ends[3]}. The grey line is {answers.WRONG:g}. Where a line has a gap, the error is 0 "
        "or the gradient is not finite. Thin lines are drawn on wide ones: DCL under FlatNCE, "
        "cross-entropy under softplus(v)."
    )
    return Plot("errors_by_batch", caption, png(figure))


def errors_by_weight(records: Sequence[Record]) -> Plot:
    """Error of each form in float32 against the mean of sigmoid(v), over all inputs."""
    shown = [
        name for name in ("float32", "bfloat16") if (name, "dense") in answers.measured(records)
    ]
    figure, axes = panels(1, len(shown), sharey=True)
    for axis, arithmetic in zip(axes[0], shown, strict=True):
        part = [one for one in records if arithmetic in one.values["errors"]]
        weights = answers.exact_figures(part, "mean_weight")
        for form in ("cross_entropy", "softplus", "flatnce"):
            found = _drawn(answers.errors(part, arithmetic, "dense", form))
            axis.loglog(
                _drawn(weights), np.minimum(found, 1e3), _STYLES[form]["marker"], markersize=3,
                color=_COLOURS[form], label=FORM_NAMES[form], alpha=0.6,
            )  # fmt: skip
        axis.set_title(f"{arithmetic}, dense", fontsize=10)
        axis.set_xlabel("mean of sigmoid(v)")
    axes[0, 0].set_ylabel("relative error of the gradient (at most 1000)", fontsize=8)
    legend(figure, axes[0, 0], 3)
    return Plot("errors_by_weight", weight_caption(records), png(figure))


def weight_caption(records: Sequence[Record]) -> str:
    """Where cross-entropy is wrong in float32, in terms of the mean of sigmoid(v)."""
    weights = np.asarray(answers.exact_figures(records, "mean_weight"))
    written = np.asarray(answers.errors(records, "float32", "dense", "cross_entropy"))
    finite = np.isfinite(written)
    said = f"All {len(written)} inputs of every batch size, temperature and hardness."
    if finite.any():
        slope = np.median((written * weights)[finite]) / ROUNDOFF["float32"]
        said += (
            f" In float32 cross-entropy's error is a median of {answers.number(float(slope))} "
            "units of roundoff divided by the mean of sigmoid(v)."
        )
    wrong = weights[[answers.is_wrong(value) for value in written]]
    if len(wrong):
        said += (
            f" It is wrong (above {answers.WRONG:g}) on {len(wrong)} inputs, all of them with a "
            f"mean of sigmoid(v) of at most {_up(float(wrong.max()))}."
        )
    else:
        said += f" It is at most {answers.WRONG:g} on all of them."
    return said + " Errors of 0 and gradients that are not finite are not drawn."


def _up(value: float) -> str:
    """Two digits, rounded upwards."""
    if value <= 0:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / unit * (1 - 1e-12)) * unit:.2g}"


def vanishing(records: Sequence[Record]) -> Plot:
    """What sigmoid(v) does to the exact gradient, by batch size and temperature."""
    figure, axes = panels(1, 2)
    batches = sorted({record.key["batch"] for record in records})
    temperatures = sorted({record.key["temperature"] for record in records})
    noise = sorted({record.key["noise"] for record in records})
    middle = noise[len(noise) // 2]
    shown = [record for record in records if record.key["noise"] == middle]
    for axis, name, label in (
        (axes[0, 0], "length_ratio", "length of InfoNCE's / FlatNCE's"),
        (axes[0, 1], "cosine", "cosine of the two"),
    ):
        for temperature in temperatures:
            at = [record for record in shown if record.key["temperature"] == temperature]
            found = {
                batch: answers.exact_figures([r for r in at if r.key["batch"] == batch], name)
                for batch in batches
            }
            medians = [np.median(values) if values else math.nan for values in found.values()]
            axis.plot(batches, medians, marker=".", label=f"temperature {temperature:g}")
        axis.set_xscale("log")
        plain_ticks(axis, batches)
        axis.set_xlabel("batch size")
        axis.set_ylabel(label)
    axes[0, 0].set_yscale("log")
    axes[0, 1].set_ylim(0, 1.02)
    legend(figure, axes[0, 0], len(temperatures))
    batches = sorted({record.key["batch"] for record in shown})
    ends = [
        answers.number(
            float(np.median(answers.exact_figures(
                [record for record in shown if record.key["batch"] == batch], "length_ratio"
            )))
        )
        for batch in (batches[0], batches[-1])
    ]  # fmt: skip
    caption = (
        f"Exact gradients in float64, positives at noise {middle:g}. The length that sigmoid(v) "
        f"leaves is a median of {ends[0]} at batch {batches[0]:,} and {ends[1]} at "
        f"{batches[-1]:,}. Where the cosine is 1, a factor for the whole batch undoes it."
    )
    return Plot("vanishing_factor", caption, png(figure))


def scores(chosen: Chosen) -> Plot:
    """Each arm's score at its best rate, by batch size."""
    metric = chosen.metric
    parts = sorted({(setting.optimizer, setting.dtype) for setting in chosen.settings()})
    figure, axes = panels(1, len(parts), sharey=True)
    deviations = [
        best.spread(metric).deviation for best in chosen.best.values() if len(best.runs) > 1
    ]
    for axis, (optimizer, dtype) in zip(axes[0], parts, strict=True):
        batches = [
            s.batch for s in chosen.settings() if (s.optimizer, s.dtype) == (optimizer, dtype)
        ]
        for shift, (arm, name) in enumerate(ARM_NAMES.items()):
            found = [
                (batch, chosen.best[place].spread(metric))
                for batch in batches
                if (place := (Setting("corpus", optimizer, dtype, batch), arm)) in chosen.best
            ]
            axis.errorbar(
                [batch * 1.06 ** (shift - 1.5) for batch, _ in found],
                [spread.mean for _, spread in found],
                [spread.deviation for _, spread in found],
                capsize=2, color=_COLOURS[arm], label=name, markersize=4, **_STYLES[arm],
            )  # fmt: skip
        axis.set_xscale("log", base=2)
        plain_ticks(axis, batches)
        axis.set_title(f"{optimizer_name(optimizer)}, {dtype}", fontsize=10)
        axis.set_xlabel("batch size")
    axes[0, 0].set_ylabel(METRICS[metric], fontsize=9)
    legend(figure, axes[0, 0], 2 if len(parts) == 1 else len(ARM_NAMES))
    bars = (
        f"bars are one standard deviation over seeds, a median of {np.median(deviations):.2f}"
        if deviations
        else "there is one seed, and so no bar"
    )
    caption = (
        f"{METRICS[metric]} of each arm at the learning rate that is best for it; {bars}. A seed "
        "has the same start and data for all arms, so that differences paired by seed can be finer "
        "than these bars."
    )
    return Plot(f"scores_{metric.partition('@')[0]}", caption, png(figure))


def differences(rows: Sequence[Comparison], metric: str) -> Plot:
    """Paired differences of every question in every setting, with their intervals."""
    settings = sorted({row.setting for row in rows}, reverse=True)
    figure, axes = panels(1, len(QUESTIONS), sharey=True)
    figure.set_size_inches(4.2 * len(QUESTIONS), max(3.0, 0.26 * len(settings) + 1))
    for axis, question in zip(axes[0], QUESTIONS, strict=True):
        for row in (row for row in rows if row.question == question):
            one = row.difference
            reach = [[one.mean - one.low], [one.high - one.mean]]
            axis.errorbar(
                [one.mean], [settings.index(row.setting)],
                xerr=reach if np.isfinite(reach).all() else None, marker="o", markersize=4,
                capsize=2, color="0.6" if one.within_spread else "tab:blue",
            )  # fmt: skip
        axis.axvline(0, color="0.3", linewidth=0.8)
        axis.set_title(f"{question.name}:\n{question.contrast}", fontsize=9)
    axes[0, 0].set_yticks(range(len(settings)), list(map(str, settings)), fontsize=8)
    return Plot(
        f"differences_{metric.partition('@')[0]}", differences_caption(rows, metric), png(figure)
    )


def differences_caption(rows: Sequence[Comparison], metric: str) -> str:
    """In how many settings each question's arms are told apart."""
    counts = []
    for question in QUESTIONS:
        asked = [row.difference for row in rows if row.question == question]
        apart = sum(not one.within_spread for one in asked)
        counts.append(f"{question.name} {apart} of {len(asked)}")
    return (
        f"Paired differences of {METRICS[metric]} with 95 % intervals, which are not corrected for "
        "their number. Grey ones cover 0: the seeds do not tell the arms apart. Settings in which "
        f"they do: {', '.join(counts)}."
    )


def courses(chosen: Chosen) -> Plot:
    """Mean v and gradient norm along the runs of the smallest and the largest batch."""
    # float32 stands behind bfloat16 in the alphabet, AdamW before SGD.
    settings = chosen.settings()
    optimizer = min(setting.optimizer for setting in settings)
    dtype = max(setting.dtype for setting in settings if setting.optimizer == optimizer)
    like = [one for one in settings if (one.optimizer, one.dtype) == (optimizer, dtype)]
    shown = list(dict.fromkeys((like[0], like[-1])))
    figure, axes = panels(2, len(shown), sharex=True)
    told = []
    for column, setting in enumerate(shown):
        for arm, name in ARM_NAMES.items():
            if (setting, arm) not in chosen.best:
                continue
            runs = chosen.best[setting, arm].runs.values()
            for axis, logged in zip(axes[:, column], ("mean_v", "grad_norm"), strict=True):
                windows = zip(*(run["history"][logged] for run in runs), strict=True)
                finite = [[one for one in window if one is not None] for window in windows]
                mean = [float(np.mean(window)) if window else math.nan for window in finite]
                part = (np.arange(len(mean)) + 0.5) / len(mean)
                style = _STYLES[arm]
                axis.plot(part, mean, color=_COLOURS[arm], label=name, markersize=4, **style)
                if logged == "grad_norm" and arm in ("softplus", "flatnce") and any(finite):
                    norm = answers.number(float(np.nanmean(mean)))
                    told.append(f"{name} {norm} at batch {setting.batch}")
        axes[0, column].set_title(str(setting), fontsize=10)
        axes[1, column].set_yscale("log")
        axes[1, column].set_xlabel("part of the run")
    axes[0, 0].set_ylabel("mean v")
    axes[1, 0].set_ylabel("gradient norm")
    legend(figure, axes[0, 0], 2)
    caption = (
        "Mean v and the norm of the whole gradient along the runs, each arm at its best learning "
        f"rate for {chosen.metric}, mean over seeds. Mean norms: {'; '.join(told) or 'none'}."
    )
    return Plot("courses", caption, png(figure))
