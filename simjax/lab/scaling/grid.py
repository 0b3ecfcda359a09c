"""Which runs a study makes: objectives, batches, groups of negatives, rules of the rate, seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args, get_type_hints

from simjax.errors import UsageError
from simjax.lab.sweep.grid import SeededGrid
from simjax.objectives.config import ContrastiveConfig

LrRule: TypeAlias = Literal["constant", "sqrt", "linear"]
"""How the peak learning rate goes with the batch, from the one that the recipe's rate is for."""
LR_RULES: tuple[LrRule, ...] = get_args(LrRule)
OBJECTIVES: tuple[str, ...] = get_args(get_type_hints(ContrastiveConfig)["loss"])
OBJECTIVE_NAMES = {"infonce": "InfoNCE", "flatnce": "FlatNCE", "dcl": "DCL"}


class Setting(NamedTuple):
    """What the seeds of a mean have in common.

    Attributes:
        objective: As `objective.loss`.
        batch: Examples of an update.
        group: Examples among which negatives are found; `batch` is all of them.
        lr_rule: Of the learning rate; `constant` at the batch where all rules say the same.
    """

    objective: str
    batch: int
    group: int
    lr_rule: str

    def __str__(self) -> str:
        name = OBJECTIVE_NAMES.get(self.objective, self.objective)
        negatives = "of all" if self.group == self.batch else f"of groups of {self.group:,}"
        return f"{name}, batch {self.batch:,}, negatives {negatives}, {self.lr_rule} learning rate"


@dataclass(frozen=True)
class RunKey:
    """What tells a run from the others of a study; see `Setting`."""

    objective: str
    batch: int
    group: int
    lr_rule: str
    seed: int

    @property
    def setting(self) -> Setting:
        """The run without its seed."""
        return Setting(self.objective, self.batch, self.group, self.lr_rule)

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        parts = f"batch{self.batch}-group{self.group}-{self.lr_rule}-seed{self.seed}"
        return f"{self.objective}-{parts}"

    def __str__(self) -> str:
        return f"{self.setting}, seed {self.seed}"


@dataclass(frozen=True)
class Grid(SeededGrid):
    """The runs of a command.

    Attributes:
        batch_sizes: Examples of an update.
        negative_groups: Examples among which negatives are found, for the batches that are larger;
            None is the whole batch.
        objectives: Losses, as `objective.loss`.
        lr_rules: As `LrRule`.
    """

    batch_sizes: tuple[int, ...] = (128, 512, 2048)
    negative_groups: tuple[int | None, ...] = (64, None)
    objectives: tuple[str, ...] = ("infonce", "dcl")
    lr_rules: tuple[str, ...] = LR_RULES


def check(grid: Grid, examples: int) -> None:
    """Whether all of a grid can be run.

    Raises:
        UsageError: With the option at fault.
    """
    for option, given, known in (
        ("objectives", grid.objectives, OBJECTIVES),
        ("lr_rules", grid.lr_rules, LR_RULES),
    ):
        for word in given:
            if word not in known:
                raise UsageError(f"--{option} {word}: give one of {', '.join(known)}")
    grid.check_values()
    for batch in grid.batch_sizes:
        if batch < 2:
            raise UsageError(f"--batch_sizes {batch}: give at least 2, to have a negative")
        if examples % batch:
            raise UsageError(
                f"--batch_sizes {batch}: does not divide --examples {examples}, which every run "
                "is to see"
            )
    for group in grid.negative_groups:
        for batch in grid.batch_sizes:
            if group is not None and group < batch and batch % group:
                raise UsageError(
                    f"--negative_groups {group}: does not divide the batch of {batch}; give a "
                    "divisor of every batch that is larger"
                )
    for group in grid.negative_groups:
        if group is not None and (group < 2 or group > max(grid.batch_sizes)):
            raise UsageError(
                f"--negative_groups {group}: give from 2 to the largest of --batch_sizes, or batch"
            )
    for batch in grid.batch_sizes:
        if not _groups(grid, batch):
            raise UsageError(
                f"--negative_groups: none is as small as the batch of {batch}; add batch, which "
                "is all of it"
            )


def _groups(grid: Grid, batch: int) -> list[int]:
    found = {batch if group is None else group for group in grid.negative_groups}
    return sorted(group for group in found if group <= batch)


def settings(grid: Grid, base_batch: int) -> Iterator[Setting]:
    """Those of a grid, each once: at the base batch the rules are one."""
    for objective in dict.fromkeys(grid.objectives):
        for batch in sorted(set(grid.batch_sizes)):
            rules = ("constant",) if batch == base_batch else tuple(dict.fromkeys(grid.lr_rules))
            for group in _groups(grid, batch):
                for rule in rules:
                    yield Setting(objective, batch, group, rule)


def run_keys(grid: Grid, base_batch: int) -> Iterator[RunKey]:
    """The runs of a grid, seed by seed: a study that is cut short has all settings, less often."""
    for seed in dict.fromkeys(grid.seeds):
        for setting in settings(grid, base_batch):
            yield RunKey(*setting, seed)
