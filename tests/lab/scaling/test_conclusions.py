"""What is said of made-up tables, where a difference is and is not within the spread."""

from __future__ import annotations

import dataclasses

import pytest
from scipy import stats

from simjax.lab.scaling import conclusions, noise, plots, tables
from simjax.lab.scaling.contrasts import contrasts
from simjax.lab.scaling.grid import Grid, RunKey
from simjax.lab.statistics import LEVEL
from simjax.lab.sweep.conclusions import trouble
from simjax.lab.sweep.contrasts import effects, rows, sentence
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
    assert "5 of the other 5 are not told apart from it" in best


def test_the_best_is_not_what_bad_seeds_have_left():
    made = records({}, noise=0.1)
    for record in made:
        if record.key["lr_rule"] == "sqrt" and record.key["group"] == 256:
            # One seed is left, by luck far above the others.
            if record.key["seed"]:
                record.values.update({"diverged": True, "scores": {}})
            else:
                record.values["scores"][METRIC] = 90.0
    best = conclusions.best(outcomes(made))[0]
    assert "the highest mean is 50" in best and "± 0." in best
    assert best.endswith(
        "not compared, because runs diverged or are missing: batch 256, negatives of all, sqrt "
        "learning rate."
    )


def test_the_best_of_many_is_told_apart_by_a_corrected_test():
    # Each of the others is apart from the best with p = 0.013, which of five means little.
    made = records({}, noise=0.0)
    for record in made:
        if record.key["objective"] == "infonce" and record.key["group"] == record.key["batch"]:
            record.values["scores"][METRIC] += 2.0 * (record.key["lr_rule"] == "sqrt")
        if record.key["lr_rule"] == "sqrt" and record.key["group"] == 256:
            record.values["scores"][METRIC] += (0.0, 0.5, 1.0)[record.key["seed"]]
    test = stats.ttest_1samp([2.0, 2.5, 3.0], 0.0)
    assert LEVEL / 5 < test.pvalue < LEVEL
    best = conclusions.best(outcomes(made))[0]
    assert "the highest mean is 52.50 ± 0.50 at batch 256, negatives of all, sqrt" in best
    assert "; 5 of the other 5 are not told apart from it by the seeds, after Holm's" in best


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
    grid = Grid(GRID.batch_sizes, GRID.negative_groups, GRID.objectives, GRID.lr_rules, seeds=(0,))
    found = outcomes(records({"whole": 5.0}, grid=grid), grid)
    assert "cannot tell: one seed" in said(found)[NEGATIVES]
    assert "(one seed: no interval)" in said(found)[NEGATIVES]


def test_equal_runs_are_called_equal():
    found = outcomes(records({}, noise=0.0))
    assert "equal with every seed" in said(found)[NEGATIVES]
    found = outcomes(records({"whole": 1.0}, noise=0.0))
    assert "better by the same amount with every seed: no test" in said(found)[NEGATIVES]
    # What was not tested was not kept by a correction either.
    two = conclusions.two_effects(effects(found, contrasts(found)), found)
    assert "with the update held: outside of the spread of the seeds in 4 of 4" in two
    assert two.endswith("after Holm's correction in 0.")


def test_noise_is_told_with_its_bias():
    lines = noise.conclusions(outcomes(records({})))
    # Groups of 32 stay within micro-batches of 32; 3 / 1 of batches 64 and 256.
    assert lines[0].startswith(
        "InfoNCE (unbiased): a critical batch of 192 to 768 over 3 settings, 128 to 512 in their "
        "first quarter and 256 to 1,024 in their last"
    )
    assert "batches of 64 lie below all" in lines[0] and "256" not in lines[0].partition(";")[2]
    assert lines[1].startswith("InfoNCE (biased upwards)") and "lie below" not in lines[1]
    # By the mean, batches of 256 lie above all critical batches; by two seeds of three, below.
    made = records({})
    for record in made:
        record.values["signal"] = 20.0 if record.key["seed"] == 1 else 1.0
    line = noise.conclusions(outcomes(made))[0]
    assert "a critical batch of 26 to 105 over 3 settings" in line
    assert "lie " not in line.replace("no batch lies", "") and "with every seed" in line
    # Nor by the mean over the run alone, of which a first quarter of large gradients decides.
    for record in made:
        record.values.update(signal=20.0, signal_parts=[20.0, 0.5])
    line = noise.conclusions(outcomes(made))[0]
    assert "a critical batch of 10 to 38 over 3 settings" in line
    assert "batches of" not in line
    for record in made:
        record.values["signal_parts"] = [20.0, 10.0]
    assert "batches of 256 lie above all" in noise.conclusions(outcomes(made))[0]
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


def test_a_contrast_says_which_runs_it_lacks():
    made = records({"whole": 5.0}, noise=0.01)
    for record in made:
        key = record.key
        if (key["objective"], key["lr_rule"], key["seed"]) == ("infonce", "sqrt", 1):
            record.values.update({"diverged": True, "scores": {}})
    found = outcomes(made)
    line = said(found)[NEGATIVES]
    assert "; 2 seeds" in line
    assert line.endswith("Left out on both sides: seeds of which runs diverged (2).")
    assert "Left out" not in said(found)["DCL: sqrt for constant learning rate"]
    table = rows(effects(found, contrasts(found)), found)
    told = {row["contrast"]: row["diverged"] for row in table}
    assert told[NEGATIVES] == 2 and told["DCL: sqrt for constant learning rate"] == ""


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
    assert critical.caption.startswith("The batch at which") and "more" not in critical.caption
    assert "In 12 of 12 settings" in critical.caption


def test_captions_hide_nothing():
    made = records({}, grid=dataclasses.replace(GRID, seeds=(0,)))
    for record in made:
        if record.key["batch"] == 256:
            record.values["signal"] = -1.0
        record.values["pairs_per_second"] = None
    found = outcomes(made, dataclasses.replace(GRID, seeds=(0,)))
    assert "In 4 of 4 settings" in plots.noise(found).caption
    assert "8 more cannot be drawn" in plots.noise(found).caption
    # A figure that is not there does not lend its name to the other.
    cost = plots.cost(found).caption
    assert "per second" not in cost and "MB: 64.0 at batch 64" in cost
    assert {row["examples per second"] for row in tables.cost(found)} == {"not measured"}
    assert "there is one seed, and so no bar" in plots.quality(found).caption
