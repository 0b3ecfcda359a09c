"""Contenders that take turns, and the statistics of their times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Times: TypeAlias = dict[str, list[float]]
"""Seconds of each round, by contender; round i of one happened beside round i of the others."""


@dataclass(frozen=True)
class Spread:
    """The middle of some numbers, and the range of the middle half of them."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles, linear between the two nearest values.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Spread of the ratios of two contenders round by round.

    What slows both in a round cancels, where the ratio of two medians may take its two times from
    rounds that had nothing in common.

    Raises:
        ValueError: the contenders do not have the same number of rounds.
    """
    return spread([a / b for a, b in zip(numerator, denominator, strict=True)])


def total_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Ratio of the sums of times, with the quartiles of the ratios round by round.

    For rounds that differ in work, such as batches of different lengths, where each round should
    weigh as much as it takes.

    Raises:
        ValueError: the contenders do not have the same number of rounds.
    """
    rounds = paired_ratio(numerator, denominator)
    return Spread(sum(numerator) / sum(denominator), rounds.low, rounds.high)


def turns(names: Sequence[str], rounds: int) -> Iterator[list[str]]:
    """The order of each round: forwards and backwards by turns, so that nobody is always last."""
    for number in range(rounds):
        yield list(names) if number % 2 == 0 else list(reversed(names))


def interleave(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    said: Callable[[str], None] = lambda line: None,
) -> Times:
    """Time contenders in turns.

    Args:
        contenders: What each does, to its end: work that is only queued is not done. They are
            expected to be warm.
        rounds: How often each does it.
        said: Told what is going on before each run.
    """
    times: Times = {name: [] for name in contenders}
    for number, order in enumerate(turns(list(contenders), rounds), 1):
        for name in order:
            said(f"round {number} of {rounds}: {name}")
            began = time.perf_counter()
            contenders[name]()
            times[name].append(time.perf_counter() - began)
    return times
