"""What part one says follows from its numbers, and turns round where they do."""

import pytest

from simjax.lab.precision import answers
from tests.lab.precision.made_runs import measurement

CANCELS = [measurement(0.8, 1e-6, 1e-7, draw=n) for n in range(4)]
ROUNDS = [measurement(2e-3, 2e-3, 2e-3, draw=n) for n in range(4)]


def test_cancellation():
    said = answers.cancellation(CANCELS)[0]
    assert said.startswith("float32, dense: ")
    assert "on 4 of 4 inputs, that of softplus(v) on 0: every one" in said
    assert "free of a median of 100.0%" in said

    said = answers.cancellation(ROUNDS)[0]
    assert "on 0 of 4 inputs, that of softplus(v) on 0: cancellation does no harm" in said
    assert "free of a median of 0.0%" in said

    neither = [measurement(0.8, 0.8, 1e-7)]
    assert (
        "on 1 of 1 inputs, that of softplus(v) on 1: cancellation explains none"
        in (answers.cancellation(neither)[0])
    )
    some = answers.cancellation([*CANCELS, *neither])[0]
    assert "cancellation explains 4 of these 5 wrong gradients" in some


def test_share():
    records = [measurement(0.8, 0.2, 0), measurement(0.2, 0.8, 0), measurement(0.0, 0.0, 0)]
    assert answers.cancelled(records, "float32", "dense") == pytest.approx([0.75, 0, 0])


def test_vanishing():
    first, second, *_ = answers.vanishing(CANCELS)
    assert "all but removes" in first and "0.001" in first
    assert "weights examples unequally" in second

    first, second, *_ = answers.vanishing([measurement(0.1, 0.1, 0.1, ratio=0.7, cosine=0.99)])
    assert "leaves most" in first and "one factor for the whole batch" in second


def test_range_of_float16():
    assert "range is wide enough" in answers.vanishing(CANCELS)[-1]
    assert "below what float16 can hold" in answers.vanishing([measurement(1, 1, 1e-3)])[-1]


def test_what_remains_is_told_in_units_of_roundoff():
    said = answers.remaining([measurement(1, 2**-20, 2**-24)])[0]
    assert "softplus(v) 9.5e-07 " in said and "or 16 units" in said
    assert said.endswith("or 1 units of roundoff.")


def test_summary_turns_round():
    assert "nearly all" in answers.summary(CANCELS)[0][1]
    assert "a minor part" in answers.summary(ROUNDS)[0][1]
    assert "most" in answers.summary([*CANCELS, ROUNDS[0]])[0][1]


def test_middle():
    middle = answers.Middle.of([1, 2, 3, 4, 5])
    assert (middle.low, middle.median, middle.high) == (2, 3, 4)
    assert str(middle) == "3 (middle half 2 to 4)"
    assert [answers.number(x) for x in (0, 0.85, 12.4, 123.4, 3.4e-6, 2e5)] == [
        "0", "0.85", "12", "123", "3.4e-06", "2.0e+05",
    ]  # fmt: skip
