"""A difference in words, which turn round with its numbers."""

import pytest

from simjax.lab.reading import interval, p_value, signed, verdict
from simjax.lab.statistics import difference, holm

CLEAR = difference([3.0, 3.1, 3.2], [0.0, 0.0, 0.0])
UNCLEAR = difference([1.0, -1.1, 0.4], [0.0, 0.0, 0.0])


def test_numbers_in_words():
    assert [signed(x) for x in (1.234, -0.5, 0.0, 0.0123, -0.095)] == [
        "+1.23", "-0.50", "+0.00", "+0.012", "-0.10",
    ]  # fmt: skip
    assert p_value(0.04321) == "0.0432" and p_value(float("nan")) == "no test"
    assert interval(CLEAR) == "+3.10 (95 % interval +2.85 to +3.35)"
    assert interval(difference([2.0], [1.0])) == "+1.00 (one seed: no interval)"


def test_a_clear_difference_is_better_or_worse():
    back = difference([0.0, 0.0, 0.0], [3.0, 3.1, 3.2])
    assert (verdict(CLEAR), verdict(back)) == ("better", "worse")
    assert verdict(CLEAR, higher_is_better=False) == "worse"
    # Of so many that one of them is to be expected.
    assert verdict(holm([CLEAR, *[UNCLEAR] * 199])[0]) == (
        "better by itself, not after Holm's correction"
    )


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ([1.0, 2.0], [1.0, 2.0], "equal with every seed"),
        ([2.0, 3.0], [1.0, 2.0], "better by the same amount with every seed: no test"),
        ([2.0], [1.0], "cannot tell: one seed"),
    ],
)
def test_what_cannot_be_tested_is_said(first, second, said):
    assert verdict(difference(first, second)) == said


def test_a_difference_within_the_spread_is_called_that():
    within = "within the spread of the seeds (only a difference of 3.3 or more would show)"
    assert verdict(UNCLEAR) == within
    # What matters can be ruled out, or not.
    assert verdict(UNCLEAR, matters=2.9) == "no difference of 2.9 or more"
    assert verdict(UNCLEAR, matters=2.7) == within
