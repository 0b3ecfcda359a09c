"""Plots as PNG, and what each of them shows, in words from its own numbers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simjax.lab.precision import answers
from simjax.lab.precision.comparisons import ARM_NAMES, QUESTIONS, Best, Comparison, Setting
from simjax.lab.precision.outcomes import METRICS
from simjax.lab.precision.records import Record
from simjax.lab.precision.settings import Arm

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
_FLOOR = 1e-9
"""Errors are drawn no lower, on a logarithmic axis."""


@dataclass(frozen=True)
class Plot:
    """A picture and what it shows.

    Attributes:
        name: Of its file, without `.png`.
        caption: What it shows.
        png: The picture.
    """

    name: str
    caption: str
    png: bytes


def _figure(rows: int, columns: int, **options: Any) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot there is no global state, and no display is looked for.
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _png(figure: Any) -> bytes:
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=100, metadata={"Software": None})
    return held.getvalue()


def errors_by_batch(records: Sequence[Record], temperature: float, noise: float) -> Plot:
    """Error of each form against the batch size, at one temperature and hardness."""
    chosen = [
        record
        for record in records
        if record.key["temperature"] == temperature and record.key["noise"] == noise
    ]
    panels = answers.measured(chosen)
    columns = min(4, len(panels))
    figure, axes = _figure(-(-len(panels) // columns), columns, sharex=True, sharey=True)
    batches = sorted({record.key["batch"] for record in chosen})
    for axis, (arithmetic, way) in zip(axes.flat, panels, strict=False):
        for form, name in FORM_NAMES.items():
            medians = [
                np.median(
                    answers.errors(
                        [r for r in chosen if r.key["batch"] == batch], arithmetic, way, form
                    )
                )
                for batch in batches
            ]
            style = "--" if form in ("lse_minus_positive", "dcl") else "-"
            axis.loglog(
                batches, np.maximum(medians, _FLOOR), style, marker=".", color=_COLOURS[form],
                label=name,
            )  # fmt: skip
        axis.axhline(answers.WRONG, color="0.7", linewidth=0.8)
        axis.set_title(f"{arithmetic}, {way}", fontsize=10)
        axis.set_xlabel("batch size")
    for axis in axes[:, 0]:
        axis.set_ylabel("relative error of the gradient")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    axes[0, 0].legend(fontsize=7)
    small = [record for record in chosen if record.key["batch"] == batches[0]]
    large = [record for record in chosen if record.key["batch"] == batches[-1]]
    ends = [
        answers.number(float(np.median(answers.errors(part, "float32", "dense", form))))
        for form in ("cross_entropy", "softplus")
        for part in (small, large)
    ]
    caption = (
        f"Median relative error of the query gradient at temperature {temperature:g} and positives "
        f"at noise {noise:g}. From batch {batches[0]:,} to {batches[-1]:,}, dense and in float32, "
        f"cross-entropy's goes from {ends[0]} to {ends[1]} and softplus(v)'s from {ends[2]} to "
        f"{ends[3]}. The grey line is {answers.WRONG:g}; dashed forms lie on the solid ones where "
        "they are not seen."
    )
    return Plot("errors_by_batch", caption, _png(figure))


def errors_by_weight(records: Sequence[Record]) -> Plot:
    """Error of each form in float32 against the mean of sigmoid(v), over all inputs."""
    shown = [
        name for name in ("float32", "bfloat16") if (name, "dense") in answers.measured(records)
    ]
    figure, axes = _figure(1, len(shown), sharey=True)
    weights = np.maximum(answers.exact_figures(records, "mean_weight"), 1e-30)
    for axis, arithmetic in zip(axes[0], shown, strict=True):
        for form in ("cross_entropy", "softplus", "flatnce"):
            found = answers.errors(records, arithmetic, "dense", form)
            axis.loglog(
                weights, np.clip(found, _FLOOR, 1e3), ".", markersize=3, color=_COLOURS[form],
                label=FORM_NAMES[form],
            )  # fmt: skip
        axis.set_title(f"{arithmetic}, dense", fontsize=10)
        axis.set_xlabel("mean of sigmoid(v)")
    axes[0, 0].set_ylabel("relative error of the gradient (at most 1000)")
    axes[0, 0].legend(fontsize=8)
    written = np.asarray(answers.errors(records, "float32", "dense", "cross_entropy"))
    slope = np.median(written * weights) / answers.ROUNDOFF["float32"]
    wrong = weights[written > answers.WRONG]
    where = (
        f"It is wrong (above {answers.WRONG:g}) on {len(wrong)} inputs, all of them with a mean of "
        f"sigmoid(v) below {answers.number(float(wrong.max()) * 1.01)}."
        if len(wrong)
        else f"It stays below {answers.WRONG:g} on all of them."
    )
    caption = (
        f"All {len(written)} inputs of every batch size, temperature and hardness. In float32 "
        f"cross-entropy's error is a median of {answers.number(float(slope))} units of roundoff "
        f"divided by the mean of sigmoid(v). {where}"
    )
    return Plot("errors_by_weight", caption, _png(figure))


def vanishing(records: Sequence[Record]) -> Plot:
    """What sigmoid(v) does to the exact gradient, by batch size and temperature."""
    figure, axes = _figure(1, 2)
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
            medians = [
                np.median(
                    answers.exact_figures(
                        [
                            record
                            for record in shown
                            if (record.key["batch"], record.key["temperature"])
                            == (batch, temperature)
                        ],
                        name,
                    )
                )
                for batch in batches
            ]
            axis.plot(batches, medians, marker=".", label=f"temperature {temperature:g}")
        axis.set_xscale("log")
        axis.set_xlabel("batch size")
        axis.set_ylabel(label)
    axes[0, 0].set_yscale("log")
    axes[0, 1].set_ylim(0, 1.02)
    axes[0, 0].legend(fontsize=8)
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
    return Plot("vanishing_factor", caption, _png(figure))


def scores(chosen: dict[tuple[Setting, Arm], Best], metric: str) -> Plot:
    """Each arm's score at its best rate, by batch size."""
    parts = sorted({(setting.optimizer, setting.dtype) for setting, _ in chosen})
    figure, axes = _figure(1, len(parts), sharey=True)
    deviations = [best.spread(metric).deviation for best in chosen.values()]
    for axis, (optimizer, dtype) in zip(axes[0], parts, strict=True):
        batches = sorted(
            {s.batch for s, _ in chosen if (s.optimizer, s.dtype) == (optimizer, dtype)}
        )
        for shift, (arm, name) in enumerate(ARM_NAMES.items()):
            found = [
                (batch, chosen[Setting(optimizer, dtype, batch), arm].spread(metric))
                for batch in batches
                if (Setting(optimizer, dtype, batch), arm) in chosen
            ]
            axis.errorbar(
                [batch * 1.06 ** (shift - 1.5) for batch, _ in found],
                [spread.mean for _, spread in found],
                [spread.deviation for _, spread in found],
                marker=".", capsize=2, color=_COLOURS[arm], label=name,
            )  # fmt: skip
        axis.set_xscale("log", base=2)
        axis.set_title(f"{'AdamW' if optimizer == 'adamw' else 'SGD'}, {dtype}", fontsize=10)
        axis.set_xlabel("batch size")
    axes[0, 0].set_ylabel(METRICS[metric])
    axes[0, 0].legend(fontsize=7)
    caption = (
        f"{METRICS[metric]} of each arm at its best learning rate; bars are one standard deviation "
        f"over seeds, a median of {np.median(deviations):.2f}. Seeds differ in start and data "
        "alike for all arms, so that paired differences are finer than these bars."
    )
    return Plot(f"scores_{metric.partition('@')[0]}", caption, _png(figure))


def differences(comparisons: Sequence[Comparison], metric: str) -> Plot:
    """Paired differences of every question in every setting, with their intervals."""
    rows = [row for row in comparisons if row.metric == metric]
    settings = sorted({row.setting for row in rows}, reverse=True)
    figure, axes = _figure(1, len(QUESTIONS), sharey=True)
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
    counts = ", ".join(
        f"{question.name} {sum(not r.difference.within_spread for r in rows if r.question == question)}"  # noqa: E501
        for question in QUESTIONS
    )
    caption = (
        f"Paired differences of {METRICS[metric]} with 95 % intervals. Grey ones cover 0: the "
        f"seeds do not tell the arms apart. Those that do not, of {len(settings)} settings each: "
        f"{counts}."
    )
    return Plot(f"differences_{metric.partition('@')[0]}", caption, _png(figure))


def courses(chosen: dict[tuple[Setting, Arm], Best]) -> Plot:
    """Mean v and gradient norm along the runs of the smallest and the largest batch."""
    # float32 stands behind bfloat16 in the alphabet, AdamW before SGD.
    optimizer = min(setting.optimizer for setting, _ in chosen)
    dtype = max(setting.dtype for setting, _ in chosen if setting.optimizer == optimizer)
    batches = sorted({s.batch for s, _ in chosen if (s.optimizer, s.dtype) == (optimizer, dtype)})
    shown = list(dict.fromkeys((batches[0], batches[-1])))
    figure, axes = _figure(2, len(shown), sharex=True)
    told = []
    for column, batch in enumerate(shown):
        setting = Setting(optimizer, dtype, batch)
        for arm, name in ARM_NAMES.items():
            if (setting, arm) not in chosen:
                continue
            runs = chosen[setting, arm].runs.values()
            for axis, logged in zip(axes[:, column], ("mean_v", "grad_norm"), strict=True):
                mean = np.mean([run["history"][logged] for run in runs], axis=0)
                part = (np.arange(len(mean)) + 0.5) / len(mean)
                axis.plot(part, mean, marker=".", color=_COLOURS[arm], label=name)
                if logged == "grad_norm" and arm in ("softplus", "flatnce"):
                    told.append(f"{name} {answers.number(float(mean.mean()))} at batch {batch}")
        axes[0, column].set_title(str(setting), fontsize=10)
        axes[1, column].set_yscale("log")
        axes[1, column].set_xlabel("part of the run")
    axes[0, 0].set_ylabel("mean v")
    axes[1, 0].set_ylabel("gradient norm")
    axes[0, 0].legend(fontsize=7)
    caption = (
        "Mean v and the norm of the whole gradient along the runs, each arm at its best learning "
        f"rate, mean over seeds. Mean norms: {'; '.join(told)}."
    )
    return Plot("courses", caption, _png(figure))
