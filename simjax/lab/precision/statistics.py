"""Two arms compared seed by seed: mean difference, its interval, tests, Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

LEVEL = 0.05
"""Of tests; intervals cover 1 - LEVEL."""


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
        t_test: Two-sided p of the paired t-test; NaN of fewer than two pairs.
        wilcoxon: Two-sided p of Wilcoxon's signed ranks, exact: with five pairs at least 0.0625.
        holm: `t_test` corrected for all comparisons made together; itself until `holm` is applied.
    """

    mean: float
    deviation: float
    low: float
    high: float
    count: int
    t_test: float
    wilcoxon: float
    holm: float

    @property
    def within_spread(self) -> bool:
        """Whether the interval covers 0: the seeds do not tell the arms apart."""
        return not (self.low > 0 or self.high < 0)


def difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """``first`` minus ``second``, which belong to the same seeds in the same order.

    Differences that are all equal have no spread: their interval is a point, and the t-test's p is
    its limit, 0, or 1 where they are all 0.

    Raises:
        ValueError: They are not equally many, or none.
    """
    from scipy import stats

    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} and {len(second)} values to be paired")
    found = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    spread = Spread.of(found.tolist())
    if len(found) == 1:
        return Difference(spread.mean, 0.0, -math.inf, math.inf, 1, math.nan, math.nan, math.nan)
    half = stats.t.ppf(1 - LEVEL / 2, len(found) - 1) * spread.deviation / math.sqrt(len(found))
    if spread.deviation == 0:
        t_test = wilcoxon = 1.0 if spread.mean == 0 else 0.0
        if spread.mean != 0:
            wilcoxon = float(stats.wilcoxon(found).pvalue)
    else:
        t_test = float(stats.ttest_rel(first, second).pvalue)
        wilcoxon = float(stats.wilcoxon(found).pvalue)
    low, high = spread.mean - half, spread.mean + half
    return Difference(
        spread.mean, spread.deviation, low, high, len(found), t_test, wilcoxon, t_test
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
