"""What the tables say, in words, with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence

from simjax.lab.scaling.grid import OBJECTIVE_NAMES, Setting
from simjax.lab.scaling.tables import Outcomes
from simjax.lab.statistics import LEVEL
from simjax.lab.sweep import conclusions
from simjax.lab.sweep.contrasts import Effect


def best(outcomes: Outcomes) -> list[str]:
    """For each objective the best setting, and those that the seeds do not tell from it."""
    lines = []
    for objective in dict.fromkeys(s.objective for s in outcomes.settings):
        of = [s for s in outcomes.settings if s.objective == objective]
        name = OBJECTIVE_NAMES.get(objective, objective)
        lines.append(f"{name}: {conclusions.best(outcomes, of, _place)}.")
    return lines


def _place(setting: Setting) -> str:
    return str(setting).partition(", ")[2]


def two_effects(effects: Sequence[Effect[Setting]], outcomes: Outcomes) -> str:
    """Which of the two effects of a batch the study can see."""
    said = []
    for axis, words in (
        ("batch", "more examples to an update, with negatives held"),
        ("negatives", "more negatives, with the update held"),
    ):
        found = [one.difference for one in effects if one.contrast.axis == axis]
        of = [one for one in found if one is not None]
        if not of:
            said.append(f"{words}: not varied")
            continue
        apart = [one for one in of if one.count > 1 and not one.within_spread]
        kept = [one for one in apart if one.holm < LEVEL]
        said.append(
            f"{words}: outside of the spread of the seeds in {len(apart)} of {len(of)} contrasts, "
            f"after Holm's correction in {len(kept)}"
        )
    return f"The two effects of a batch on {outcomes.metric}: {'; '.join(said)}."
