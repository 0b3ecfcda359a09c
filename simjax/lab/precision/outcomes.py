"""Part two's conclusions, in words from its own tables and with their uncertainty."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from simjax.lab.precision import answers
from simjax.lab.precision.comparisons import (
    ARM_NAMES,
    QUESTIONS,
    Chosen,
    Comparison,
    Question,
    optimizer_name,
    place_name,
    pooled,
)
from simjax.lab.precision.settings import Block
from simjax.lab.reading import interval, p_value, verdict
from simjax.lab.records import Record
from simjax.lab.statistics import LEVEL, Difference, holm

LISTED = 12
"""Most cases that are told by name."""
MATTERS = 1.0
"""A difference of scores, of which both go from 0 to 100, that a reader would care about."""
METRICS = {
    "spearman": "Spearman on STS-B dev (times 100)",
    "ndcg@10": "nDCG@10 of held-out pairs (times 100)",
    "alignment": "alignment (lower is closer)",
    "uniformity": "uniformity (lower is more even)",
}


def conclusions(chosen: Chosen, comparisons: Sequence[Comparison]) -> list[str]:
    """One for each question over all settings of a block, corrected together by Holm."""
    asked: list[tuple[Question, Block]] = [(question, "corpus") for question in QUESTIONS]
    if chosen.settings("easy"):
        asked.append((QUESTIONS[0], "easy"))
    found = [(question, block, pooled(chosen, question, block=block)) for question, block in asked]
    corrected = iter(holm([one for *_, one in found if one is not None]))
    return [
        _conclusion(chosen, comparisons, question, block, None if one is None else next(corrected))
        for question, block, one in found
    ]


def _conclusion(
    chosen: Chosen,
    comparisons: Sequence[Comparison],
    question: Question,
    block: Block,
    whole: Difference | None,
) -> str:
    rows = [row for row in comparisons if row.question == question and row.setting.block == block]
    where = " on easy pairs" if block == "easy" else ""
    name = f"{question.name.capitalize()}{where} ({question.contrast})"
    if whole is None or not rows:
        return f"{name}, {METRICS[chosen.metric]}: not measured, or not completely."
    said = (
        f"{name}: {verdict(whole, matters=MATTERS)}. Over {_settings(len(rows))} "
        f"{METRICS[chosen.metric]} changes by {interval(whole)}."
    )
    if whole.count < 2:
        return said
    apart = [row for row in rows if not row.difference.within_spread]
    if not apart:
        return f"{said} In every single setting the interval covers 0."
    better = sum(row.difference.mean > 0 for row in apart)
    kept = sum(row.difference.holm < LEVEL for row in rows)
    largest = max(apart, key=lambda row: abs(row.difference.mean))
    return (
        f"{said} In {len(apart)} of {len(rows)} single settings the interval does not cover 0 "
        f"({better} better, {len(apart) - better} worse; about {_by_chance(len(rows))} would be so "
        f"by chance); after Holm's correction {kept or 'none'} "
        f"{'differs' if kept < 2 else 'differ'}. The largest of them: "
        f"{interval(largest.difference)} with {largest.setting}."
    )


def _settings(count: int) -> str:
    return "1 setting" if count == 1 else f"{count} settings"


def _by_chance(count: int) -> str:
    return f"{LEVEL * count:.1f}".rstrip("0").rstrip(".")


def by_part(chosen: Chosen) -> list[dict[str, str]]:
    """Each question for each block, optimiser and dtype, over its batch sizes."""
    blocks: tuple[Block, ...] = ("corpus", "easy")
    places = dict.fromkeys(
        (block, setting.optimizer, setting.dtype)
        for block in blocks
        for setting in chosen.settings(block)
    )
    found = [
        (question, place, one)
        for question in QUESTIONS
        for place in places
        if (one := pooled(chosen, question, block=place[0], optimizer=place[1], dtype=place[2]))
    ]
    corrected = holm([one for *_, one in found])
    return [
        {
            "question": question.name,
            "difference": question.contrast,
            "setting": ("easy pairs, " if place[0] == "easy" else "")
            + f"{optimizer_name(place[1])}, {place[2]}",
            "mean and 95 % interval": interval(one),
            "Holm p": p_value(one.holm),
            "reading": verdict(one, matters=MATTERS),
        }
        for (question, place, _), one in zip(found, corrected, strict=True)
    ]


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f"; and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return "; ".join(names[:LISTED]) + more


def edges(chosen: Chosen) -> str:
    """Whether the grids of learning rates were wide enough."""
    if not chosen.best:
        return ""
    at_edge = [place_name(place) for place, best in chosen.best.items() if best.edge]
    if not at_edge:
        return f"For {chosen.metric} every arm's best learning rate lies inside of its grid."
    return (
        f"For {chosen.metric}, in {len(at_edge)} of {len(chosen.best)} cases the best learning "
        "rate is the lowest or highest that was tried, so a better one may lie beyond: "
        f"{_listed(at_edge)}."
    )


def trouble(runs: Sequence[Record], chosen: Chosen) -> list[str]:
    """Runs that diverged, and updates left out because their gradient was not finite."""
    gone = sum(record.values["diverged"] for record in runs)
    said = ["No run diverged."]
    if gone:
        named = {
            f"{place_name(place)}: {len(best.diverged)} of {len(best.diverged) + len(best.runs)}"
            for place, best in chosen.best.items()
            if best.diverged
        } | {f"{place_name(place)}: all at every rate" for place in chosen.lost}
        where = (
            f"at the chosen rates: {_listed(named)}" if named else "none of them at a chosen rate"
        )
        said = [
            f"{gone} of {len(runs)} runs diverged: they have no score and are in no mean and no "
            f"comparison; {where}."
        ]
    dropped: dict[str, int] = {}
    for place, best in chosen.best.items():
        if count := sum(values["dropped"] for values in best.runs.values()):
            dropped[place_name(place)] = count
    if dropped:
        listed = _listed(f"{name}: {count}" for name, count in dropped.items())
        said.append(f"Updates dropped because their gradient was not finite: {listed}.")
    else:
        said.append("At the chosen rates no update was dropped: every gradient was finite.")
    return said


def unfinished(chosen: Chosen) -> str:
    """Every setting that is not complete, with its arms that are not."""
    arms: dict[str, list[str]] = {}
    for setting, arm in sorted(chosen.missing):
        arms.setdefault(str(setting), []).append(ARM_NAMES[arm])
    return "; ".join(f"{setting} ({', '.join(names)})" for setting, names in arms.items())


def expectation(runs: Sequence[Record], inputs: Sequence[Record], block: Block) -> str | None:
    """Where runs were between cancellation and none, and what part one found there."""
    weights = [
        value
        for record in runs
        if record.key["block"] == block
        for value in record.values["history"]["mean_weight"]
        if value is not None
    ]
    if not weights:
        return None
    low, high = min(weights), max(weights)
    middle = answers.Middle.of(weights)
    said = (
        f"Along the runs {'on easy pairs' if block == 'easy' else 'on the corpus'} the mean of "
        f"sigmoid(v) over a tenth of a run was from {answers.number(low)} to "
        f"{answers.number(high)}, with a median of {middle}."
    )
    # The range of most of them: single windows reach far.
    from_, to = np.quantile(weights, (0.05, 0.95))
    at = [one for one in inputs if from_ <= one.values["exact"]["mean_weight"] <= to]
    if not at:
        return f"{said} Part one has no input with such weights."
    harmed = []
    for arithmetic in ("float32", "bfloat16"):
        if (arithmetic, "dense") not in answers.measured(at):
            continue
        sides = [answers.errors(at, arithmetic, "dense", f) for f in ("cross_entropy", "softplus")]
        written, stable = (answers.Middle.of(side).median for side in sides)
        said += (
            f" In {arithmetic}, at such weights (the middle 90 %), part one's median error of the "
            f"gradient was {answers.number(written)} for cross-entropy and "
            f"{answers.number(stable)} for softplus(v), on {len(at)} inputs."
        )
        if written > answers.WRONG and written > 2 * stable:
            harmed.append(arithmetic)
    if harmed:
        return f"{said} So an effect of cancellation could show in {' and '.join(harmed)}."
    return f"{said} So no effect of cancellation was to be expected in these runs."


def history_rows(runs: Sequence[Record]) -> list[dict[str, Any]]:
    """One row for each window of each run: what the CSV holds."""
    return [
        {
            **record.key,
            "window": window,
            **{name: values[window] for name, values in record.values["history"].items()},
        }
        for record in runs
        for window in range(len(record.values["history"]["loss"]))
    ]
