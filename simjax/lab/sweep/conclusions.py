"""What a sweep as a whole says, in words."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from simjax.lab.statistics import difference
from simjax.lab.sweep.outcomes import Outcomes, spread

S = TypeVar("S", bound=Hashable)


def best(outcomes: Outcomes[S], settings: Sequence[S], words: Callable[[S], str] = str) -> str:
    """The best of some settings, and those that the seeds do not tell from it.

    Args:
        outcomes: The runs.
        settings: At least one of its settings.
        words: A setting in words.
    """
    sign = 1 if outcomes.higher_is_better else -1
    scores = {s: found for s in settings if (found := outcomes.scores(s))}
    if not scores:
        return "every run diverged"
    means = {s: sum(found.values()) / len(found) for s, found in scores.items()}
    first = max(means, key=lambda s: sign * means[s])
    near = [s for s in scores if s != first and not _apart(scores[first], scores[s])]
    extreme = "highest" if sign > 0 else "lowest"
    said = f"the {extreme} mean is {spread(list(scores[first].values()))} at {words(first)}"
    if len(scores) == 1:
        return f"{said}, the only setting"
    if not near:
        return f"{said}; every other setting is apart from it by more than the spread of the seeds"
    return (
        f"{said}; {len(near)} of the other {len(scores) - 1} are within the spread of the seeds: "
        f"{'; '.join(map(words, near))}"
    )


def _apart(first: dict[int, float], other: dict[int, float]) -> bool:
    seeds = sorted(first.keys() & other.keys())
    if not seeds:
        return False
    return not difference([first[s] for s in seeds], [other[s] for s in seeds]).within_spread


def trouble(outcomes: Outcomes[S]) -> list[str]:
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
