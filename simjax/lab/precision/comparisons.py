"""Part two's runs as figures: each arm at its best rate, and arms against each other by seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from simjax.lab.precision.settings import Arm, Block, Dtype, Optimizer, RunKey
from simjax.lab.records import Record
from simjax.lab.statistics import Difference, Spread, difference, holm

ARM_NAMES: dict[Arm, str] = {
    "cross_entropy": "cross-entropy",
    "softplus": "softplus(v)",
    "rescaled": "softplus(v) / mean sigmoid(v)",
    "flatnce": "FlatNCE",
}


class Setting(NamedTuple):
    """What is the same for the arms that are compared."""

    block: Block
    optimizer: Optimizer
    dtype: Dtype
    batch: int

    def __str__(self) -> str:
        easy = "easy pairs, " if self.block == "easy" else ""
        return f"{easy}{optimizer_name(self.optimizer)}, {self.dtype}, batch {self.batch}"


def optimizer_name(optimizer: Optimizer) -> str:
    """As people write it."""
    return "AdamW" if optimizer == "adamw" else "SGD"


Place: TypeAlias = tuple[Setting, Arm]


def place_name(place: Place) -> str:
    """An arm in a setting."""
    return f"{ARM_NAMES[place[1]]} with {place[0]}"


@dataclass(frozen=True)
class Best:
    """An arm in a setting, at the rate that was best on the half of the data that chooses.

    Attributes:
        rate: The learning rate.
        edge: It is the lowest or highest of several that were tried: a better one may lie beyond.
        runs: The values of its runs by seed, without those that diverged.
        diverged: Seeds that diverged at this rate.
    """

    rate: float
    edge: bool
    runs: dict[int, dict[str, Any]]
    diverged: tuple[int, ...] = ()

    def scores(self, metric: str) -> dict[int, float]:
        """A score by seed."""
        return {seed: values["scores"][metric] for seed, values in self.runs.items()}

    def spread(self, metric: str) -> Spread:
        """A score over seeds."""
        return Spread.of(list(self.scores(metric).values()))


class Question(NamedTuple):
    """Two arms that differ in one thing."""

    name: str
    first: Arm
    second: Arm
    asks: str

    @property
    def contrast(self) -> str:
        """What is subtracted from what."""
        return f"{ARM_NAMES[self.first]} minus {ARM_NAMES[self.second]}"


QUESTIONS = (
    Question("cancellation", "softplus", "cross_entropy", "the same loss without cancellation"),
    Question("global scale", "rescaled", "softplus", "the batch's gradient scaled up as a whole"),
    Question("weighting", "flatnce", "rescaled", "all examples weighted alike, at equal scale"),
    Question("all together", "flatnce", "cross_entropy", "FlatNCE in place of InfoNCE as written"),
)


class Comparison(NamedTuple):
    """A question answered in a setting, for one score."""

    setting: Setting
    question: Question
    difference: Difference


Cells: TypeAlias = dict[Place, dict[float, dict[int, dict[str, Any]]]]


def cells(runs: Iterable[Record]) -> Cells:
    """The values of runs by place, rate and seed."""
    found: Cells = defaultdict(lambda: defaultdict(dict))
    for record in runs:
        place, rate, seed = _parts(RunKey(**record.key))
        found[place][rate][seed] = record.values
    return found


def _parts(key: RunKey) -> tuple[Place, float, int]:
    setting = Setting(key.block, key.optimizer, key.dtype, key.batch)
    return (setting, key.arm), key.rate, key.seed


@dataclass(frozen=True)
class Chosen:
    """Every arm in every setting, its learning rate chosen for one score.

    Attributes:
        metric: The score.
        best: The arms of which all rates and seeds that were asked for are there.
        missing: Runs that are not there, by arm and setting.
        lost: Arms of which every run diverged.
    """

    metric: str
    best: dict[Place, Best]
    missing: dict[Place, int]
    lost: tuple[Place, ...]

    def settings(self, block: Block = "corpus") -> list[Setting]:
        """In order, those with an arm that can be compared."""
        return sorted({setting for setting, _ in self.best if setting.block == block})

    def pair(self, setting: Setting, question: Question) -> Pair | None:
        """The scores of a question's arms by seed; None where there are not both."""
        sides = [self.best.get((setting, arm)) for arm in (question.first, question.second)]
        if sides[0] is None or sides[1] is None:
            return None
        first, second = (side.scores(self.metric) for side in sides if side)
        return (first, second) if first.keys() & second.keys() else None


Pair: TypeAlias = tuple[dict[int, float], dict[int, float]]


def compared(runs: Iterable[Record]) -> list[str]:
    """The scores that are compared, the one that matters most first; higher is better in all."""
    names = {name for record in runs for name in record.values["scores"]}
    return [name for name in ("spearman", "ndcg@10") if name in names]


def choose(runs: Sequence[Record], planned: Sequence[RunKey], metric: str) -> Chosen:
    """Each arm in each setting at the rate with the highest mean of a score, on the half for it.

    An arm counts once every run that was asked for is there: a grid of rates with a hole in it, or
    with fewer seeds, is no fair choice. A rate at which fewer seeds diverged goes before any score.
    """
    found = cells(runs)
    missing: dict[Place, int] = {}
    wanted: dict[Place, set[float]] = defaultdict(set)
    for key in planned:
        place, rate, seed = _parts(key)
        wanted[place].add(rate)
        if seed not in found.get(place, {}).get(rate, {}):
            missing[place] = missing.get(place, 0) + 1
    best: dict[Place, Best] = {}
    lost = []
    for place in sorted(wanted):
        if place in missing:
            continue
        means: dict[float, tuple[int, float]] = {}
        for rate in wanted[place]:
            scores = [
                values["scores"][f"select/{metric}"] for values in found[place][rate].values()
            ]
            finite = [score for score in scores if score is not None]
            if finite:
                means[rate] = (len(finite) - len(scores), Spread.of(finite).mean)
        if not means:
            lost.append(place)
            continue
        rate = max(sorted(means), key=lambda rate: means[rate])
        seeds = dict(sorted(found[place][rate].items()))
        best[place] = Best(
            rate,
            len(wanted[place]) > 1 and rate in (min(wanted[place]), max(wanted[place])),
            {seed: values for seed, values in seeds.items() if not values["diverged"]},
            tuple(seed for seed, values in seeds.items() if values["diverged"]),
        )
    return Chosen(metric, best, missing, tuple(lost))


def compare(chosen: Chosen) -> list[Comparison]:
    """Every question in every setting where both arms have runs of the same seeds.

    The p are corrected together, over all questions and settings.
    """
    rows = []
    for setting in [*chosen.settings(), *chosen.settings("easy")]:
        for question in QUESTIONS:
            pair = chosen.pair(setting, question)
            if pair is not None:
                first, second = pair
                seeds = sorted(first.keys() & second.keys())
                made = difference([first[s] for s in seeds], [second[s] for s in seeds])
                rows.append(Comparison(setting, question, made))
    corrected = holm([row.difference for row in rows])
    return [row._replace(difference=one) for row, one in zip(rows, corrected, strict=True)]


def pooled(
    chosen: Chosen,
    question: Question,
    *,
    block: Block = "corpus",
    dtype: Dtype | None = None,
    optimizer: Optimizer | None = None,
) -> Difference | None:
    """A question over all settings (of a dtype, of an optimiser): seeds are what varies.

    Each seed gives the mean of its differences over the settings; only seeds that every setting
    has count.
    """
    tables = []
    for setting in chosen.settings(block):
        if dtype not in (None, setting.dtype) or optimizer not in (None, setting.optimizer):
            continue
        pair = chosen.pair(setting, question)
        if pair is not None:
            tables.append(pair)
    if not tables:
        return None
    seeds = sorted(set.intersection(*(a.keys() & b.keys() for a, b in tables)))
    if not seeds:
        return None
    return difference(
        [_mean([a[seed] for a, _ in tables]) for seed in seeds],
        [_mean([b[seed] for _, b in tables]) for seed in seeds],
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
