import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from simjax.lab.statistics import Spread, difference, holm

FIRST, SECOND = [3.1, 2.5, 4.0, 3.6, 3.3], [2.9, 2.6, 3.1, 3.0, 2.7]


def test_difference_is_scipys():
    found = difference(FIRST, SECOND)
    test = stats.ttest_rel(FIRST, SECOND)
    interval = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.t_test == pytest.approx(test.pvalue) == found.holm
    assert found.wilcoxon == pytest.approx(stats.wilcoxon(FIRST, SECOND).pvalue)
    assert found.mean == pytest.approx(np.mean(FIRST) - np.mean(SECOND))
    assert found.deviation == pytest.approx(np.std(np.subtract(FIRST, SECOND), ddof=1))


def test_turned_round_it_is_the_opposite():
    there, back = difference(FIRST, SECOND), difference(SECOND, FIRST)
    assert (back.mean, back.low) == pytest.approx((-there.mean, -there.high))
    assert back.t_test == pytest.approx(there.t_test)


def test_the_interval_decides_what_is_within_the_spread():
    assert not difference([1.0, 1.1, 1.2], [0.0, 0.0, 0.0]).within_spread
    assert not difference([0.0, 0.0, 0.0], [1.0, 1.1, 1.2]).within_spread
    assert difference([1.0, -1.1, 1.2], [0.0, 0.0, 0.0]).within_spread


def test_pairs_matter():
    """The same scores, paired by seed and shuffled: only the former tells them apart."""
    first = [1.0, 5.0, 9.0, 13.0]
    second = [0.9, 4.8, 8.9, 12.8]
    assert not difference(first, second).within_spread
    assert difference(first, second[::-1]).within_spread


def test_differences_without_spread():
    equal = difference([1.0, 2.0], [1.0, 2.0])
    assert equal.equal and equal.within_spread
    assert math.isnan(equal.t_test) and math.isnan(equal.wilcoxon)
    moved = difference([2.0, 3.0], [1.0, 2.0])
    assert (moved.low, moved.high, moved.within_spread, moved.equal) == (1, 1, False, False)
    assert math.isnan(moved.t_test)
    # What only rounding tells apart.
    assert difference([0.1 + 0.2, 0.3], [0.3, 0.3]).equal


def test_the_detectable_difference_is_found_in_four_cases_of_five():
    found = difference(FIRST, SECOND)
    size = found.detectable / found.deviation
    degrees, count = len(FIRST) - 1, len(FIRST)
    edge = stats.t.ppf(0.975, degrees)
    assert stats.nct.sf(edge, degrees, size * count**0.5) == pytest.approx(0.8, abs=0.05)


def test_one_seed_says_nothing():
    one = difference([2.0], [1.0])
    assert one.within_spread and math.isnan(one.t_test) and one.low == -math.inf
    with pytest.raises(ValueError, match="paired"):
        difference([], [])
    with pytest.raises(ValueError, match="paired"):
        difference([1.0], [1.0, 2.0])


def test_holm():
    made = [replace(difference(FIRST, SECOND), t_test=p) for p in (0.01, 0.04, 0.03, 0.005)]
    # Holm's own way: 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1 is raised to the one before.
    assert [one.holm for one in holm(made)] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [one.t_test for one in holm(made)] == [0.01, 0.04, 0.03, 0.005]
    assert holm([replace(made[0], t_test=0.7)] * 2)[0].holm == 1
    alone = difference([2.0], [1.0])
    found = holm([alone, made[0]])
    assert math.isnan(found[0].holm) and found[1].holm == 0.01


def test_spread():
    assert Spread.of([1.0, 2.0, 3.0]) == Spread(2.0, 1.0, 3)
    assert Spread.of([4.0]) == Spread(4.0, 0.0, 1)
