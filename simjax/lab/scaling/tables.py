"""Runs as rows, as this study's tables have them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from simjax.lab.records import Record
from simjax.lab.scaling.grid import LR_RULES, OBJECTIVE_NAMES, RunKey, Setting
from simjax.lab.sweep import outcomes as sweep
from simjax.lab.sweep.outcomes import spread


@dataclass(frozen=True)
class Outcomes(sweep.Outcomes[Setting]):
    """The runs of a study, by setting and seed.

    Attributes:
        micro_batch: Most examples that a device encodes at a time.
        parts: Devices that a batch is split over.
        base_batch: At which all learning-rate rules are one.
    """

    micro_batch: int
    parts: int
    base_batch: int

    @classmethod
    def of(
        cls,
        records: Iterable[Record],
        planned: Sequence[RunKey],
        metric: str,
        *,
        micro_batch: int,
        parts: int,
        base_batch: int,
    ) -> Outcomes:
        """Of the records that were asked for, in order of objective, batch, group and rule."""
        objectives = list(dict.fromkeys(key.objective for key in planned))
        rules: list[str] = list(LR_RULES)

        def order(key: RunKey) -> tuple[int, ...]:
            rule = rules.index(key.lr_rule)
            return objectives.index(key.objective), key.batch, key.group, rule, key.seed

        inorder = tuple(sorted(planned, key=order))
        found = sweep.by_setting(records, inorder)
        return cls(found, metric, inorder, micro_batch, parts, base_batch)

    def at(self, objective: str, batch: int, group: int, lr_rule: str) -> Setting:
        """A setting under a rule; at the base batch that is the one of all rules."""
        rule = "constant" if batch == self.base_batch else lr_rule
        return Setting(objective, batch, group, rule)

    def unbiased(self, setting: Setting) -> bool:
        """Whether the estimate of the noise is: no negative crosses a micro-batch."""
        return min(self.micro_batch, setting.batch // self.parts) % setting.group == 0


def heading(setting: Setting) -> dict[str, str]:
    """What the row of a setting begins with."""
    return {
        "objective": OBJECTIVE_NAMES.get(setting.objective, setting.objective),
        "batch": f"{setting.batch:,}",
        "negatives of": "all" if setting.group == setting.batch else f"{setting.group:,}",
        "learning rate": setting.lr_rule,
    }


def cost(outcomes: Outcomes) -> list[dict[str, str]]:
    """Speed and memory of each batch and group, over objectives, rules and seeds."""
    rows = []
    for batch, group in dict.fromkeys((s.batch, s.group) for s in outcomes.settings):
        of = [s for s in outcomes.settings if (s.batch, s.group) == (batch, group)]
        speeds = [x for s in of for x in outcomes.values(s, "pairs_per_second")]
        taken = [x for s in of for x in outcomes.values(s, "memory")]
        rows.append(
            {
                "batch": f"{batch:,}",
                "negatives of": "all" if group == batch else f"{group:,}",
                "runs": str(len(speeds)),
                "examples per second": spread(speeds, 1) if speeds else "not measured",
                "memory of a step, MB": f"{max(taken) / 1e6:,.1f}" if taken else "not measured",
            }
        )
    return rows
