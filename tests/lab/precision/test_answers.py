"""What part one says follows from its numbers, and turns round where they do."""

import math

import pytest

from simjax.lab.precision import answers, plots, tables
from tests.lab.precision.made_runs import measurement

CANCELS = [measurement(0.8, 1e-6, 1e-7, draw=n) for n in range(4)]
ROUNDS = [measurement(2e-3, 2e-3, 2e-3, draw=n) for n in range(4)]


def test_cancellation():
    said = answers.cancellation(CANCELS)[0]
    assert said.startswith("float32, dense: Cancellation alone makes gradients wrong.")
    assert "on 4 of 4 inputs; on 0 of these softplus(v) is wrong too." in said
    assert "free of a median of 100.0%" in said

    said = answers.cancellation(ROUNDS)[0]
    assert "Cancellation makes no gradient wrong here" in said and "on 0 of 4 inputs" in said
    assert "free of a median of 0.0%" in said

    neither = [measurement(0.8, 0.8, 1e-7)]
    assert "wrong without cancellation as well" in answers.cancellation(neither)[0]
    some = answers.cancellation([*CANCELS, *neither])[0]
    assert "Cancellation alone makes 4 of 5 gradients wrong" in some


def test_wrong_gradients_are_counted_input_by_input():
    """As many are wrong of either form, on different inputs: that is no wash."""
    said = answers.cancellation([measurement(0.8, 1e-6, 0), measurement(1e-6, 0.8, 0)])[0]
    assert "Cancellation alone makes gradients wrong" in said
    assert "on 1 of 2 inputs; on 0 of these softplus(v) is wrong too, and on 1 others" in said


@pytest.mark.parametrize(("error", "count"), [(0.099, 0), (0.101, 1)])
def test_wrong_is_above_a_tenth(error, count):
    record = measurement(error, 1e-6, 1e-7)
    assert f"on {count} of 1 inputs" in answers.cancellation([record])[0]
    assert tables.errors_over_all([record])[0]["wrong (above 0.1)"] == f"{count} of 1"


def test_what_is_not_finite_is_counted_apart():
    record = measurement(0.8, 1e-6, 1e-7)
    ways = {form: [None] * 3 for form in record.values["errors"]["float32"]["dense"]}
    lost = measurement(0.8, 1e-6, 1e-7, draw=1)
    lost.values["errors"] = {"float32": {"dense": ways}}
    said = answers.cancellation([record, lost])[0]
    assert "wrong (off by more than 10%) on 1 of 2 inputs" in said
    assert "not finite, 1 of cross-entropy and 1 of softplus(v)" in said
    assert answers.cancelled([record, lost], "float32", "dense") == pytest.approx([1], abs=1e-4)
    row = tables.errors_over_all([record, lost])[0]
    assert (row["wrong (above 0.1)"], row["not finite"]) == ("1 of 2", 1)
    assert "not finite" in tables.errors_over_all([lost])[0]["median error"]


def test_share():
    records = [measurement(0.8, 0.2, 0), measurement(0.2, 0.8, 0), measurement(0.0, 0.0, 0)]
    assert answers.cancelled(records, "float32", "dense") == pytest.approx([0.75, 0])


def test_vanishing_is_told_by_batch_and_temperature():
    said = answers.vanishing(
        [
            measurement(1, 1, 1, ratio=1e-3, cosine=0.5),
            measurement(1, 1, 1, ratio=0.3, cosine=0.75, batch=64),
            measurement(1, 1, 1, ratio=0.9, cosine=0.99, temperature=0.2),
        ]
    )
    assert said[1] == (
        "Temperature 0.05. batch 4: all but removed (length 0.001), cosine 0.50; "
        "batch 64: shortened (length 0.3), cosine 0.75."
    )
    assert said[2] == "Temperature 0.2. batch 4: mostly left (length 0.9), cosine 0.99."


def test_range_of_float16_is_told_by_the_length_that_is_left():
    assert (
        "softplus(v) is wrong on 0 of 4 inputs and FlatNCE on 0." in answers.vanishing(CANCELS)[-1]
    )
    record = measurement(1, 1, 1e-3)
    forms = record.values["errors"]["float16"]["dense"]
    forms["softplus"] = [1.0, 0.0, 0.1]
    assert "On 1 of the 1 less than half" in answers.vanishing([record])[-1]
    forms["softplus"] = [1.0, 0.0, 1.1]
    assert "On 0 of the 1 less than half" in answers.vanishing([record])[-1]


def test_what_remains_is_told_in_units_of_roundoff():
    said = answers.remaining([measurement(1, 2**-20, 2**-24)])[0]
    assert "softplus(v) 9.5e-07 " in said and "or 16 units" in said
    assert "or 1 units of roundoff." in said
    # v is -7.
    assert f"softplus(v)'s is {16 / 7:.2g} (" in said
    said = answers.remaining([measurement(1, 2**-4, 2**-8)])[1]
    assert said.startswith("bfloat16, dense") and "or 16 units" in said and "or 1 units" in said


def test_summary_turns_round():
    assert "nearly all" in answers.summary(CANCELS)[0][1]
    assert "little on most" in answers.summary(ROUNDS)[0][1]
    assert "most of it" in answers.summary([measurement(0.4, 0.1, 0)])[0][1]
    first = answers.summary(CANCELS)[0][1]
    assert "With float32, cross-entropy is off by more than 10% on 4 of 4 inputs" in first
    assert "softplus(v) on 0." in first
    assert "(1 units" in answers.summary([measurement(1, 1, 2**-24)])[2][1]


def test_the_caption_names_the_weights_that_are_wrong():
    caption = plots.weight_caption([measurement(0.5, 0, 0, ratio=0.01021)])
    assert "on 1 inputs" in caption and "of at most 0.011." in caption
    caption = plots.weight_caption([measurement(0.5, 0, 0), measurement(0.01, 0, 0, ratio=0.9)])
    assert "on 1 inputs" in caption and "of at most 0.001." in caption
    assert "at most 0.1 on all" in plots.weight_caption(ROUNDS)


def test_the_caption_of_errors_goes_from_small_to_large_batches():
    records = [measurement(0.8, 1e-6, 0), measurement(0.2, 2e-6, 0, batch=64)]
    caption = plots.errors_by_batch(records, 0.05, 0.3).caption
    assert (
        "cross-entropy's goes from 0.8 to 0.2 and softplus(v)'s from 1.0e-06 to 2.0e-06" in caption
    )


def test_middle():
    middle = answers.Middle.of([1, 2, 3, 4, 5])
    assert (middle.low, middle.median, middle.high) == (2, 3, 4)
    assert str(middle) == "3 (middle half 2 to 4)"
    assert answers.Middle.of([1, math.inf, math.inf]).median == math.inf
    assert [answers.number(x) for x in (0, 0.85, 12.4, 123.4, 3.4e-6, 2e5, math.inf)] == [
        "0", "0.85", "12", "123", "3.4e-06", "2.0e+05", "not finite",
    ]  # fmt: skip
