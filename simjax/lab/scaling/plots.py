"""The plots of the study, and what each of them shows, in words from its own numbers."""

from __future__ import annotations

import math
from typing import Any

from simjax.lab.plots import Plot, legend, panels, plain_ticks, png
from simjax.lab.scaling.grid import OBJECTIVE_NAMES, Setting
from simjax.lab.scaling.noise import critical
from simjax.lab.scaling.tables import Outcomes
from simjax.lab.statistics import Spread

SIZE = (4.8, 3.8)
_COLOURS = {"constant": "tab:blue", "sqrt": "tab:green", "linear": "tab:red"}
_SHAPES = ("o", "s", "^", "D", "v", "P", "X")


def _batches(axis: Any, outcomes: Outcomes) -> None:
    """The batches that were tried, as they are, along a logarithmic axis."""
    batches = sorted({s.batch for s in outcomes.settings})
    axis.set_xscale("log", base=2)
    plain_ticks(axis, batches)
    axis.set_xlabel("batch: examples of an update")


def _objectives(outcomes: Outcomes) -> list[str]:
    return list(dict.fromkeys(s.objective for s in outcomes.settings))


def _rules(outcomes: Outcomes) -> list[str]:
    return [r for r in _COLOURS if any(s.lr_rule == r for s in outcomes.settings)]


def _groups(outcomes: Outcomes) -> list[int | None]:
    """Groups that are a part of some batch, and None for whole batches."""
    parts = {s.group for s in outcomes.settings if s.group < s.batch}
    whole: list[int | None] = [None] if any(s.group == s.batch for s in outcomes.settings) else []
    return [*sorted(parts), *whole]


def _line(outcomes: Outcomes, objective: str, group: int | None, rule: str) -> list[Setting]:
    """One setting for each batch, as far as they are there."""
    batches = sorted({s.batch for s in outcomes.settings})
    wanted = [outcomes.at(objective, b, b if group is None else group, rule) for b in batches]
    return [setting for setting in wanted if setting in outcomes.runs]


def _label(group: int | None) -> str:
    return "of the whole batch" if group is None else f"of groups of {group:,}"


def quality(outcomes: Outcomes) -> Plot:
    """The metric against the batch, a line for each group of negatives and rule."""
    objectives = _objectives(outcomes)
    figure, (axes,) = panels(1, len(objectives), SIZE)
    for axis, objective in zip(axes, objectives, strict=True):
        for place, group in enumerate(_groups(outcomes)):
            for rule in _rules(outcomes):
                line = [s for s in _line(outcomes, objective, group, rule) if outcomes.scores(s)]
                found = [Spread.of(list(outcomes.scores(s).values())) for s in line]
                axis.errorbar(
                    [s.batch for s in line],
                    [one.mean for one in found],
                    yerr=[one.deviation for one in found],
                    color=_COLOURS[rule],
                    linestyle="-" if group is None else ("--", ":", "-.")[place % 3],
                    marker=_SHAPES[place % len(_SHAPES)],
                    capsize=3,
                    markersize=5,
                    label=f"negatives {_label(group)}, {rule} rate",
                )
        _batches(axis, outcomes)
        axis.set_title(OBJECTIVE_NAMES.get(objective, objective), fontsize=10)
        axis.set_ylabel(outcomes.metric)
    legend(figure, axes[0], 2)
    means = {
        s: Spread.of(list(scores.values()))
        for s in outcomes.settings
        if (scores := outcomes.scores(s))
    }
    caption = f"{outcomes.metric} after the same number of examples."
    if means:
        low, high = (pick(means, key=lambda s: means[s].mean) for pick in (min, max))
        repeated = [one.deviation for one in means.values() if one.count > 1]
        bars = (
            f"bars are one standard deviation, at most {max(repeated):.2f}"
            if repeated
            else "there is one seed, and so no bar"
        )
        caption = (
            f"{caption} Means over seeds go from {means[low].mean:.2f} ({low}) to "
            f"{means[high].mean:.2f} ({high}); {bars}. Along a broken line negatives stay the same "
            "and the update grows; between lines of one colour at one batch negatives alone differ."
        )
    return Plot("quality", caption, png(figure))


def geometry(outcomes: Outcomes) -> Plot | None:
    """Alignment against uniformity, a mark for each setting; None where they are not measured."""
    points: dict[Setting, tuple[float, float]] = {}
    for setting in outcomes.settings:
        sides = [
            list(outcomes.scores(setting, outcomes.name(measure)).values())
            for measure in ("alignment", "uniformity")
        ]
        if all(sides):
            points[setting] = (Spread.of(sides[0]).mean, Spread.of(sides[1]).mean)
    if not points:
        return None
    figure, (axes,) = panels(1, 1, SIZE)
    batches = sorted({s.batch for s in points})
    for place, objective in enumerate(_objectives(outcomes)):
        for whole in (True, False):
            of = [s for s in points if s.objective == objective and (s.group == s.batch) == whole]
            colour = f"C{place}"
            axes[0].scatter(
                [points[s][1] for s in of],
                [points[s][0] for s in of],
                s=[25 + 35 * batches.index(s.batch) for s in of],
                marker="o" if whole else "^",
                facecolors=colour if whole else "none",
                edgecolors=colour,
                label=f"{OBJECTIVE_NAMES.get(objective, objective)}, negatives of "
                f"{'the whole batch' if whole else 'groups'}",
            )
    axes[0].set_xlabel("uniformity (lower is more even)")
    axes[0].set_ylabel("alignment (lower is closer)")
    legend(figure, axes[0], 1)
    even = min(points, key=lambda s: points[s][1])
    close = min(points, key=lambda s: points[s][0])
    return Plot(
        "geometry",
        f"Alignment and uniformity, means over seeds; larger marks are larger batches. Most even: "
        f"{even} ({points[even][1]:.3f}); closest positives: {close} ({points[close][0]:.3f}).",
        png(figure),
    )


def cost(outcomes: Outcomes) -> Plot:
    """Examples per second and memory of a step against the batch."""
    figure, (axes,) = panels(1, 2, SIZE)
    told = []
    for name, axis, scale, unit in (
        ("pairs_per_second", axes[0], 1.0, "examples per second"),
        ("memory", axes[1], 1e6, "MB"),
    ):
        ends: dict[int, float] = {}
        for place, group in enumerate(_groups(outcomes)):
            of: dict[int, list[float]] = {}
            for setting in outcomes.settings:
                if setting.group == (setting.batch if group is None else group):
                    of.setdefault(setting.batch, []).extend(outcomes.values(setting, name))
            found = {batch: Spread.of(values) for batch, values in of.items() if values}
            axis.errorbar(
                list(found),
                [one.mean / scale for one in found.values()],
                yerr=[one.deviation / scale for one in found.values()],
                marker=_SHAPES[place % len(_SHAPES)],
                capsize=3,
                label=f"negatives {_label(group)}",
            )
            ends |= {batch: one.mean / scale for batch, one in found.items()}
        _batches(axis, outcomes)
        if ends:
            low, high = min(ends), max(ends)
            values = f"{ends[low]:,.1f} at batch {low:,} and {ends[high]:,.1f} at {high:,}"
            told.append(f"{unit}: {values}")
    axes[0].set_ylabel("examples per second")
    axes[1].set_ylabel("memory of a step, MB")
    legend(figure, axes[0], 2)
    said = "; ".join(told) or "Neither was measured"
    return Plot(
        "cost",
        f"Speed (medians of runs, means over them) and what the compiler gives a step. {said}.",
        png(figure),
    )


def noise(outcomes: Outcomes) -> Plot | None:
    """Critical batch against the batch; None where noise was not measured."""
    drawn = {
        s: one
        for s in outcomes.settings
        if (one := critical(outcomes, s)) is not None and 0 < one.batch < math.inf
    }
    if not drawn:
        return None
    objectives = _objectives(outcomes)
    figure, (axes,) = panels(1, len(objectives), SIZE)
    for axis, objective in zip(axes, objectives, strict=True):
        for place, group in enumerate(_groups(outcomes)):
            for rule in _rules(outcomes):
                line = [s for s in _line(outcomes, objective, group, rule) if s in drawn]
                if not line:
                    continue
                unbiased = all(map(outcomes.unbiased, line))
                axis.plot(
                    [s.batch for s in line],
                    [drawn[s].batch for s in line],
                    color=_COLOURS[rule],
                    marker=_SHAPES[place % len(_SHAPES)],
                    linestyle="-" if unbiased else ":",
                    label=f"negatives {_label(group)}, {rule} rate"
                    f"{'' if unbiased else ' (biased)'}",
                )
        _batches(axis, outcomes)
        batches = sorted({s.batch for s in outcomes.settings})
        axis.plot(batches, batches, color="0.7", linewidth=1, label="the batch itself")
        axis.set_yscale("log")
        axis.set_title(OBJECTIVE_NAMES.get(objective, objective), fontsize=10)
        axis.set_ylabel("critical batch")
    legend(figure, axes[0], 2)
    above = [s for s, one in drawn.items() if one.batch > s.batch]
    hidden = [s for s in outcomes.settings if s not in drawn and critical(outcomes, s) is not None]
    not_drawn = (
        f" {len(hidden)} more cannot be drawn: no signal rises above the noise, or there is none."
        if hidden
        else ""
    )
    return Plot(
        "noise",
        f"The batch at which noise and signal of the gradient are equal. In {len(above)} of "
        f"{len(drawn)} settings it is above the batch itself (over the grey line): there noise "
        f"dominates an update. Dotted lines are biased estimates, too high.{not_drawn}",
        png(figure),
    )
