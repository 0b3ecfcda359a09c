"""What is compared: ways to make the second view of a text, dropout rates, temperatures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from simjax.data.augment import (
    Change,
    Crop,
    Delete,
    FeatureCutoff,
    Mask,
    Repeat,
    Shuffle,
    Synonyms,
    TokenCutoff,
)
from simjax.errors import UsageError
from simjax.lab.sweep.grid import SeededGrid

Table: TypeAlias = Literal["augmentation", "dropout", "temperature"]
TABLES: dict[Table, str] = {
    "augmentation": "Augmentation against dropout alone",
    "dropout": "Dropout",
    "temperature": "Temperature",
}
DROPOUT, TEMPERATURE = 0.1, 0.05
"""Of every arm that says nothing else."""
BASELINE = "dropout"
SYNONYMS = "synonyms"


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        words: What it is, in words.
        tables: Those that it is a row of.
        augment: What is changed of the second view.
        dropout: Rate.
        masks: As `data.dropout_masks`.
        temperature: Of the objective.
        published: SimCSE's Spearman on STS-B dev from BERT-base, where it is known.
    """

    words: str
    tables: tuple[Table, ...]
    augment: tuple[Change, ...] = ()
    dropout: float = DROPOUT
    masks: Literal["own", "shared", "none"] = "own"
    temperature: float = TEMPERATURE
    published: float | None = None


def _changed(words: str, *changes: Change, **options: Any) -> Arm:
    return Arm(words, ("augmentation",), changes, **options)


def _dropped(words: str, **options: Any) -> Arm:
    return Arm(words, ("dropout",), **options)


def _cooled(temperature: float, published: float) -> Arm:
    words = f"temperature {temperature:g}"
    return Arm(words, ("temperature",), temperature=temperature, published=published)


ARMS: dict[str, Arm] = {
    BASELINE: Arm("dropout alone", (*TABLES,), published=86.2),
    "crop10": _changed("crop 10 %", Crop(rate=0.1)),
    "crop20": _changed("crop 20 %", Crop(rate=0.2)),
    "crop30": _changed("crop 30 %", Crop(rate=0.3)),
    "delete10": _changed("delete 10 % of the words", Delete(rate=0.1)),
    "delete20": _changed("delete 20 % of the words", Delete(rate=0.2)),
    "delete30": _changed("delete 30 % of the words", Delete(rate=0.3)),
    "delete1": _changed("delete one word", Delete(words=1)),
    "delete1_alone": _changed("delete one word, no dropout", Delete(words=1), masks="none"),
    SYNONYMS: _changed("one word for a synonym"),
    "mask15": _changed("mask 15 % of the tokens", Mask(rate=0.15)),
    "repeat": _changed("repeat up to 32 % of the tokens", Repeat(rate=0.32)),
    "shuffle": _changed("shuffle the tokens", Shuffle()),
    "feature_cutoff": _changed("cut 20 % of the features", FeatureCutoff(rate=0.2)),
    "token_cutoff": _changed("cut 15 % of the tokens", TokenCutoff(rate=0.15)),
    "none": _dropped("no dropout", masks="none"),
    "shared": _dropped(f"dropout {DROPOUT:g}, one mask for both views", masks="shared"),
    # What eight bits make of 0.01.
    "dropout0.012": _dropped("dropout 0.012", dropout=3 / 256),
    "dropout0.05": _dropped("dropout 0.05", dropout=0.05),
    "dropout0.15": _dropped("dropout 0.15", dropout=0.15),
    "dropout0.2": _dropped("dropout 0.2", dropout=0.2),
    "dropout0.5": _dropped("dropout 0.5", dropout=0.5),
    "temperature0.001": _cooled(0.001, 84.9),
    "temperature0.01": _cooled(0.01, 85.4),
    "temperature0.1": _cooled(0.1, 82.0),
    "temperature1": _cooled(1.0, 64.0),
}


class Setting(NamedTuple):
    """What the seeds of a mean have in common: the name of an arm."""

    arm: str

    def __str__(self) -> str:
        return ARMS[self.arm].words


@dataclass(frozen=True)
class RunKey:
    """What tells a run from the others of a study."""

    arm: str
    seed: int

    @property
    def setting(self) -> Setting:
        """The run without its seed."""
        return Setting(self.arm)

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        return f"{self.arm}-seed{self.seed}"

    def __str__(self) -> str:
        return f"{self.setting}, seed {self.seed}"


@dataclass(frozen=True)
class Grid(SeededGrid):
    """The runs of a command.

    Attributes:
        arms: Names of arms.
    """

    arms: tuple[str, ...] = tuple(name for name in ARMS if name != SYNONYMS)


def check(grid: Grid, synonyms: object) -> None:
    """Whether all of a grid can be run.

    Args:
        grid: The runs.
        synonyms: The table of synonyms, if one is given.

    Raises:
        UsageError: With the option at fault.
    """
    grid.check_values()
    for arm in grid.arms:
        if arm not in ARMS:
            raise UsageError(f"--arms {arm}: give one of {', '.join(ARMS)}")
    if SYNONYMS in grid.arms and synonyms is None:
        raise UsageError("--arms synonyms: needs a table; give --synonyms FILE")
    if BASELINE not in grid.arms:
        raise UsageError(f"--arms: all are compared with {BASELINE}; add it")


def run_keys(grid: Grid) -> Iterator[RunKey]:
    """The runs of a grid, seed by seed: a study that is cut short has all arms, less often."""
    arms = [arm for arm in ARMS if arm in grid.arms]
    for seed in dict.fromkeys(grid.seeds):
        for arm in arms:
            yield RunKey(arm, seed)


def changes_of(arm: str, synonyms: str | None) -> tuple[Change, ...]:
    """What an arm changes of the second view; the table of synonyms is the user's."""
    if arm != SYNONYMS:
        return ARMS[arm].augment
    assert synonyms is not None  # checked
    return (Synonyms(path=synonyms, words=1),)
