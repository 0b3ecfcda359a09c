"""What is said of made-up tables, where a difference is and is not within the spread."""

from __future__ import annotations

import pytest

from simjax.lab.scaling import conclusions, noise, plots
from simjax.lab.scaling.contrasts import contrasts
from simjax.lab.scaling.grid import Grid, RunKey
from simjax.lab.sweep.conclusions import trouble
from simjax.lab.sweep.contrasts import effects, sentence
from tests.lab.scaling.made_runs import GRID, METRIC, outcomes, records, run

NEGATIVES = "InfoNCE: negatives of 256 for 32, batch 256 in both"


def said(found):
    every = {one.contrast.name: one for one in effects(found, contrasts(found))}
    return {name: sentence(one, found) for name, one in every.items()}


def test_a_difference_beyond_the_spread_is_told():
    # The seeds wobble by hundredths, the groups differ by 5.
    found = outcomes(records({"whole": 5.0}, noise=0.01))
    line = said(found)[NEGATIVES]
    assert line.startswith(f"{NEGATIVES}: better. It changes +5.00 (95 % interval +")
    assert "3 seeds, means over 2 pairs of settings" in line
    two = conclusions.two_effects(effects(found, contrasts(found)), found)
    assert (
        "more negatives, with the update held: outside of the spread of the seeds in 4 of 4" in two
    )
    best = conclusions.best(found)[0]
    assert "negatives of all" in best and "highest mean is 55.00 ± 0.00" in best


def test_a_difference_within_the_spread_is_called_that():
    found = outcomes(records({"whole": 0.05}, noise=5.0))
    line = said(found)[NEGATIVES]
    assert "within the spread of the seeds (only a difference of " in line
    assert "better" not in line and "worse" not in line
    two = conclusions.two_effects(effects(found, contrasts(found)), found)
    assert "after Holm's correction in 0" in two
    best = conclusions.best(found)[0]
    assert "5 of the other 5 are within the spread of the seeds" in best


def test_where_less_is_better():
    made = records({"large": 3.0}, noise=0.01)
    for record in made:
        record.values["scores"]["dev/uniformity"] = record.values["scores"][METRIC]
    found = outcomes(made, metric="dev/uniformity")
    assert (
        "constant learning rate: worse"
        in said(found)["InfoNCE: batch 256 for 64, negatives of 32 in both, constant learning rate"]
    )
    best = conclusions.best(found)[0]
    assert "the lowest mean is 50.00" in best and "at batch 64" in best


def test_one_seed_tells_nothing():
    grid = Grid(GRID.batch_sizes, GRID.negative_groups, GRID.objectives, GRID.lr_rules, (0,))
    found = outcomes(records({"whole": 5.0}, grid=grid), grid)
    assert "cannot tell: one seed" in said(found)[NEGATIVES]
    assert "(one seed: no interval)" in said(found)[NEGATIVES]


def test_equal_runs_are_called_equal():
    found = outcomes(records({}, noise=0.0))
    assert "equal with every seed" in said(found)[NEGATIVES]
    found = outcomes(records({"whole": 1.0}, noise=0.0))
    assert "better by the same amount with every seed: no test" in said(found)[NEGATIVES]


def test_noise_is_told_with_its_bias():
    lines = noise.conclusions(outcomes(records({})))
    # Groups of 32 stay within micro-batches of 32; 3 / 1 of batches 64 and 256.
    assert lines[0].startswith("InfoNCE (unbiased): a critical batch of 192 to 768 over 3 settings")
    assert "batches of 64 lie below it" in lines[0] and "256" not in lines[0].partition(";")[2]
    assert lines[1].startswith("InfoNCE (biased upwards)") and "lie below" not in lines[1]
    none = [run(RunKey(**one.key), 50.0, signal=-1.0) for one in records({})]
    assert "no signal above the noise in 3 settings" in noise.conclusions(outcomes(none))[0]
    off = [run(RunKey(**one.key), 50.0, noise=None, signal=None) for one in records({})]
    assert noise.conclusions(outcomes(off)) == []
    assert plots.noise(outcomes(off)) is None


def test_what_is_missing_or_diverged_is_told():
    made = records({})
    made[0] = run(RunKey(**made[0].key), 0.0, scores={}, diverged=True)
    lines = trouble(outcomes(made[:-1]))
    assert "35 of 36 runs" in lines[0]
    assert "1 runs diverged" in lines[1] and "(seed 0)" in lines[1]
    assert trouble(outcomes(records({}))) == []


def test_a_setting_that_always_diverged_has_no_score():
    made = [run(RunKey(**one.key), 0.0, scores={}, diverged=True) for one in records({})]
    found = outcomes(made)
    assert conclusions.best(found) == [
        "InfoNCE: every run diverged.", "DCL: every run diverged.",
    ]  # fmt: skip
    assert all("not measured" in line for line in said(found).values())


@pytest.mark.parametrize("means", [{"whole": 5.0}, {}])
def test_captions_say_what_is_drawn(means):
    found = outcomes(records(means, noise=0.01))
    drawn = [plots.quality(found), plots.geometry(found), plots.cost(found), plots.noise(found)]
    assert all(one is not None and one.png.startswith(b"\x89PNG") for one in drawn)
    quality, _, cost, critical = drawn
    if means:
        assert "negatives of all" in quality.caption.partition(" to ")[2]
    assert "MB: 64.0 at batch 64 and 256.0 at 256" in cost.caption
    assert "In 12 of 12 settings" in critical.caption
