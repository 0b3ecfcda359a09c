"""What the tables say, in words, with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence

from simjax.lab.precision.outcomes import interval
from simjax.lab.precision.statistics import LEVEL, Difference, difference
from simjax.lab.scaling.effects import Effect
from simjax.lab.scaling.grid import OBJECTIVE_NAMES, Setting
from simjax.lab.scaling.tables import Outcomes, critical, spread

BIAS = (
    "Noise is measured from what each micro-batch adds to the gradient of the whole batch's loss: "
    "without bias where no negative crosses a micro-batch (groups that divide the micro-batch). "
    "Elsewhere two examples of different micro-batches that push each other away are one random "
    "event that is counted in both: noise, and with it the critical batch, comes out too large "
    "(about twice was measured on a random encoder with few texts), sometimes so much that no "
    "signal seems left. It is an upper bound."
)


def verdict(difference: Difference | None, *, higher_is_better: bool) -> str:
    """What the seeds say about a difference."""
    if difference is None:
        return "not measured: no seed has a score on both sides"
    if difference.equal:
        return "equal with every seed"
    if difference.count == 1:
        return "cannot tell from one seed"
    better = "better" if (difference.mean > 0) == higher_is_better else "worse"
    if math.isnan(difference.t_test):
        return f"{better} by the same amount with every seed: no test"
    if difference.within_spread:
        return (
            "within the spread of the seeds (only a difference of "
            f"{difference.detectable:.2g} or more would show)"
        )
    if difference.holm < LEVEL:
        return better
    return f"{better} by itself, not after Holm's correction"


def effect(found: Effect, outcomes: Outcomes) -> str:
    """One contrast as a sentence."""
    said = verdict(found.difference, higher_is_better=outcomes.higher_is_better)
    if found.difference is None:
        return f"{found.name}: {said}."
    count = found.difference.count
    over = f"{count} seed{'s' if count > 1 else ''}"
    if len(found.pairs) > 1:
        over += f", means over {len(found.pairs)} pairs of settings"
    return f"{found.name}: {said}. It changes {interval(found.difference)}; {over}."


def best(outcomes: Outcomes) -> list[str]:
    """For each objective the best setting, and those that the seeds do not tell from it."""
    lines = []
    sign = 1 if outcomes.higher_is_better else -1
    for objective in dict.fromkeys(s.objective for s in outcomes.settings):
        scores = {
            s: found
            for s in outcomes.settings
            if s.objective == objective and (found := outcomes.scores(s))
        }
        name = OBJECTIVE_NAMES.get(objective, objective)
        if not scores:
            lines.append(f"{name}: every run diverged.")
            continue
        means = {s: sum(found.values()) / len(found) for s, found in scores.items()}
        first = max(means, key=lambda s: sign * means[s])
        near = [s for s in scores if s != first and not _apart(scores[first], scores[s])]
        said = (
            f"{name}: the highest mean is {spread(list(scores[first].values()))} at {_place(first)}"
            if sign > 0
            else f"{name}: the lowest mean is {spread(list(scores[first].values()))} at "
            f"{_place(first)}"
        )
        if len(scores) == 1:
            said += ", the only setting"
        elif near:
            count = len(scores) - 1
            said += (
                f"; {len(near)} of the other {count} are within the spread of the seeds: "
                f"{'; '.join(map(_place, near))}"
            )
        else:
            said += "; every other setting is apart from it by more than the spread of the seeds"
        lines.append(f"{said}.")
    return lines


def _apart(first: dict[int, float], other: dict[int, float]) -> bool:
    seeds = sorted(first.keys() & other.keys())
    if not seeds:
        return False
    return not difference([first[s] for s in seeds], [other[s] for s in seeds]).within_spread


def _place(setting: Setting) -> str:
    return str(setting).partition(", ")[2]


def two_effects(effects: Sequence[Effect], outcomes: Outcomes) -> str:
    """Which of the two effects of a batch the study can see."""
    said = []
    for axis, words in (
        ("batch", "more examples to an update, with negatives held"),
        ("negatives", "more negatives, with the update held"),
    ):
        of = [one.difference for one in effects if one.axis == axis and one.difference is not None]
        if not of:
            said.append(f"{words}: not varied")
            continue
        apart = [one for one in of if one.count > 1 and not one.within_spread]
        kept = [one for one in apart if not one.holm >= LEVEL]
        said.append(
            f"{words}: outside of the spread of the seeds in {len(apart)} of {len(of)} contrasts, "
            f"after Holm's correction in {len(kept)}"
        )
    return f"The two effects of a batch on {outcomes.metric}: {'; '.join(said)}."


def noise(outcomes: Outcomes) -> list[str]:
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
                said += f"; {_advice(batches, lowest, highest)}"
            lines.append(f"{said}.")
    return lines


def _span(low: float, high: float) -> str:
    return f"{low:,.0f}" if f"{low:.0f}" == f"{high:.0f}" else f"{low:,.0f} to {high:,.0f}"


def _advice(batches: list[int], low: float, high: float) -> str:
    above = [batch for batch in batches if batch > high]
    below = [batch for batch in batches if batch < low]
    parts = []
    if below:
        parts.append(
            f"batches of {', '.join(f'{x:,}' for x in below)} lie below it, where twice the batch "
            "does nearly the work of two updates"
        )
    if above:
        parts.append(
            f"batches of {', '.join(f'{x:,}' for x in above)} lie above it, where a larger batch "
            "saves few updates"
        )
    return "; ".join(parts) or "the batches that were tried lie in that range"


def trouble(outcomes: Outcomes) -> list[str]:
    """Runs that are missing and runs that diverged."""
    lines = []
    if outcomes.missing:
        lines.append(
            f"This study is not finished: {len(outcomes.planned) - outcomes.missing} of "
            f"{len(outcomes.planned)} runs are there. The same command goes on."
        )
    lost = [
        f"{setting} (seed {seed})"
        for setting in outcomes.settings
        for seed, values in outcomes.runs[setting].items()
        if values["diverged"]
    ]
    if lost:
        lines.append(
            f"{len(lost)} runs diverged; they have no score and are in no mean: {'; '.join(lost)}."
        )
    return lines
