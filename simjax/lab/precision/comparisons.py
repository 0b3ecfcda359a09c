"""Part two's runs as figures: each arm at its best rate, and arms against each other by seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from simjax.lab.precision.records import Record
from simjax.lab.precision.settings import Arm, Dtype, Optimizer
from simjax.lab.precision.statistics import Difference, Spread, difference, holm

ARM_NAMES: dict[Arm, str] = {
    "cross_entropy": "cross-entropy",
    "softplus": "softplus(v)",
    "rescaled": "softplus(v) / mean sigmoid(v)",
    "flatnce": "FlatNCE",
}


class Setting(NamedTuple):
    """What is the same for the arms that are compared."""

    optimizer: Optimizer
    dtype: Dtype
    batch: int

    def __str__(self) -> str:
        optimizer = "AdamW" if self.optimizer == "adamw" else "SGD"
        return f"{optimizer}, {self.dtype}, batch {self.batch}"


@dataclass(frozen=True)
class Best:
    """An arm in a setting, at the rate that was best on the half of the data that chooses.

    Attributes:
        rate: The learning rate.
        edge: It is the lowest or highest of several that were tried: a better one may lie beyond.
        runs: The values of its runs by seed.
    """

    rate: float
    edge: bool
    runs: dict[int, dict]

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


@dataclass(frozen=True)
class Comparison:
    """A question answered in a setting, for one score."""

    setting: Setting
    question: Question
    metric: str
    difference: Difference


def primary(runs: Iterable[Record]) -> str:
    """The score that chooses rates and that conclusions are about."""
    names = {name for record in runs for name in record.values["scores"]}
    return "spearman" if "spearman" in names else "ndcg@10"


def best(runs: Sequence[Record]) -> dict[tuple[Setting, Arm], Best]:
    """Each arm in each setting at the rate with the highest mean of the score that chooses.

    Of a study that is not complete, rates with fewer seeds than others are left out.
    """
    chooses = f"select/{primary(runs)}"
    grouped: dict[tuple[Setting, Arm], dict[float, dict[int, dict]]] = defaultdict(dict)
    for record in runs:
        key = record.key
        setting = Setting(key["optimizer"], key["dtype"], key["batch"])
        grouped[setting, key["arm"]].setdefault(key["rate"], {})[key["seed"]] = record.values
    found = {}
    for place, rates in grouped.items():
        most = max(map(len, rates.values()))
        means = {
            rate: Spread.of([values["scores"][chooses] for values in seeds.values()]).mean
            for rate, seeds in rates.items()
            if len(seeds) == most
        }
        rate = max(means, key=lambda rate: means[rate])
        edge = len(means) > 1 and rate in (min(means), max(means))
        found[place] = Best(rate, edge, dict(sorted(rates[rate].items())))
    return found


def compare(chosen: dict[tuple[Setting, Arm], Best], metrics: Sequence[str]) -> list[Comparison]:
    """Every question in every setting where both arms have runs of the same seeds.

    The p of one metric are corrected together, over all questions and settings.
    """
    found: list[Comparison] = []
    settings = sorted({setting for setting, _ in chosen})
    for metric in metrics:
        rows = []
        for setting in settings:
            for question in QUESTIONS:
                pair = _pair(chosen, setting, question, metric)
                if pair is not None:
                    rows.append(Comparison(setting, question, metric, difference(*pair)))
        corrected = holm([row.difference for row in rows])
        found += [
            Comparison(row.setting, row.question, metric, one)
            for row, one in zip(rows, corrected, strict=True)
        ]
    return found


def _pair(
    chosen: dict[tuple[Setting, Arm], Best], setting: Setting, question: Question, metric: str
) -> tuple[list[float], list[float]] | None:
    sides = [chosen.get((setting, arm)) for arm in (question.first, question.second)]
    if sides[0] is None or sides[1] is None:
        return None
    first, second = sides[0].scores(metric), sides[1].scores(metric)
    seeds = sorted(first.keys() & second.keys())
    return ([first[seed] for seed in seeds], [second[seed] for seed in seeds]) if seeds else None


def pooled(
    chosen: dict[tuple[Setting, Arm], Best],
    question: Question,
    metric: str,
    *,
    dtype: Dtype | None = None,
    optimizer: Optimizer | None = None,
) -> Difference | None:
    """A question over all settings (of a dtype, of an optimiser): seeds are what varies.

    Each seed gives the mean of its differences over the settings; only seeds that every setting
    has count.
    """
    tables = []
    for setting in sorted({setting for setting, _ in chosen}):
        if dtype not in (None, setting.dtype) or optimizer not in (None, setting.optimizer):
            continue
        first, second = (chosen.get((setting, arm)) for arm in (question.first, question.second))
        if first is not None and second is not None:
            tables.append((first.scores(metric), second.scores(metric)))
    if not tables:
        return None
    seeds = sorted(set.intersection(*(a.keys() & b.keys() for a, b in tables)))
    if not seeds:
        return None
    sides = zip(
        *((_mean([a[seed] for a, _ in tables]), _mean([b[seed] for _, b in tables]))
          for seed in seeds), strict=True
    )  # fmt: skip
    first_means, second_means = (list(side) for side in sides)
    return difference(first_means, second_means)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
