"""Two arms compared seed by seed: mean difference, its interval, tests, Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

LEVEL = 0.05
"""Of tests; intervals cover 1 - LEVEL."""
POWER = 0.8
EQUAL = 1e-9
"""Differences that vary by no more, over seeds, have no spread to test against."""


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) of some numbers; 0 of a single one."""

    mean: float
    deviation: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one number."""
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return cls(float(np.mean(values)), deviation, len(values))


@dataclass(frozen=True)
class Difference:
    """One arm minus another, paired by seed.

    Attributes:
        mean: Of the differences.
        deviation: Their standard deviation.
        low: Lower end of the 95 % interval of the mean (Student's t).
        high: Upper end.
        count: Pairs.
        t_test: Two-sided p of the paired t-test; NaN of fewer than two pairs, and where all
            differences are equal.
        wilcoxon: Two-sided p of Wilcoxon's signed ranks, exact: with five pairs at least 0.0625.
            NaN where `t_test` is.
        holm: `t_test` corrected for all comparisons made together; itself until `holm` is applied.
        detectable: How far apart the arms would have to be for the test to find it in 4 cases of 5
            (power 0.8), at the deviation that was seen.
    """

    mean: float
    deviation: float
    low: float
    high: float
    count: int
    t_test: float
    wilcoxon: float
    holm: float
    detectable: float

    @property
    def within_spread(self) -> bool:
        """Whether the interval covers 0: the seeds do not tell the arms apart."""
        return not (self.low > 0 or self.high < 0)

    @property
    def equal(self) -> bool:
        """Whether every pair is equal."""
        return self.count > 1 and self.deviation == 0 and self.mean == 0


def difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """``first`` minus ``second``, which belong to the same seeds in the same order.

    Differences that are all equal have no spread: their interval is a point and there is no test.

    Raises:
        ValueError: They are not equally many, or none.
    """
    from scipy import stats

    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} and {len(second)} values to be paired")
    found = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    spread = Spread.of(found.tolist())
    nothing = (math.nan, math.nan, math.nan)
    if len(found) == 1:
        return Difference(spread.mean, 0.0, -math.inf, math.inf, 1, *nothing, math.inf)
    if np.ptp(found) <= EQUAL:
        mean = 0.0 if abs(spread.mean) <= EQUAL else spread.mean
        return Difference(mean, 0.0, mean, mean, len(found), *nothing, 0.0)
    error, free = spread.deviation / math.sqrt(len(found)), len(found) - 1
    reach = float(stats.t.ppf(1 - LEVEL / 2, free))
    t_test = float(stats.ttest_rel(first, second).pvalue)
    return Difference(
        mean=spread.mean,
        deviation=spread.deviation,
        low=spread.mean - reach * error,
        high=spread.mean + reach * error,
        count=len(found),
        t_test=t_test,
        wilcoxon=float(stats.wilcoxon(found).pvalue),
        holm=t_test,
        detectable=(reach + float(stats.t.ppf(POWER, free))) * error,
    )


def holm(differences: Sequence[Difference]) -> list[Difference]:
    """The same with their p corrected together (Holm 1979): p_(k) (m - k + 1), never falling.

    A comparison without a p is left as it is and does not count.
    """
    tested = [index for index, one in enumerate(differences) if not math.isnan(one.t_test)]
    tested.sort(key=lambda index: differences[index].t_test)
    corrected = list(differences)
    highest = 0.0
    for place, index in enumerate(tested):
        p = min(1.0, differences[index].t_test * (len(tested) - place))
        highest = max(highest, p)
        corrected[index] = replace(differences[index], holm=highest)
    return corrected
