"""What a sweep as a whole says, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from simjax.lab.statistics import LEVEL, Difference, difference, holm
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
    planned = Counter(key.setting for key in outcomes.planned)
    lacking = {s: planned[s] - len(found) for s, found in scores.items()}
    # What is left of a setting when its bad seeds have gone is no match for the others.
    fair = {s: found for s, found in scores.items() if lacking[s] == min(lacking.values())}
    means = {s: sum(found.values()) / len(found) for s, found in fair.items()}
    first = max(means, key=lambda s: sign * means[s])
    others = [s for s in fair if s != first]
    near = _not_apart(fair[first], {s: fair[s] for s in others})
    extreme = "highest" if sign > 0 else "lowest"
    said = f"the {extreme} mean is {spread(list(fair[first].values()))} at {words(first)}"
    if not others:
        said += ", the only setting" if len(scores) == 1 else ", the only one with so many seeds"
    elif near:
        said += (
            f"; {len(near)} of the other {len(others)} are not told apart from it by the seeds, "
            f"after Holm's correction: {'; '.join(map(words, near))}"
        )
    else:
        said += "; the seeds tell every other setting apart from it, after Holm's correction"
    if out := [s for s in scores if s not in fair]:
        said += (
            f"; not compared, because runs diverged or are missing: {'; '.join(map(words, out))}"
        )
    return said


def _not_apart(first: dict[int, float], others: dict[S, dict[int, float]]) -> list[S]:
    """The settings whose difference from the first the seeds do not tell from none."""
    shared = {s: sorted(first.keys() & other.keys()) for s, other in others.items()}
    found = {
        s: difference([first[seed] for seed in seeds], [others[s][seed] for seed in seeds])
        for s, seeds in shared.items()
        if seeds
    }
    corrected = dict(zip(found, holm(list(found.values())), strict=True))
    return [s for s in others if s not in corrected or not _apart(corrected[s])]


def _apart(one: Difference) -> bool:
    # Without a test every seed differs by the same.
    return not one.within_spread and not one.holm >= LEVEL


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
