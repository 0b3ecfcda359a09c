"""The tables against means computed by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from simjax.lab.scaling import noise, tables
from simjax.lab.scaling.contrasts import contrasts
from simjax.lab.scaling.grid import RunKey, Setting
from simjax.lab.sweep import contrasts as sweep
from simjax.lab.sweep.outcomes import quality
from tests.lab.scaling.made_runs import GRID, METRIC, outcomes, records, run

WIDER = dataclasses.replace(GRID, negative_groups=(64, None))
SETTING = Setting("infonce", 64, 32, "constant")


def effects(found):
    return sweep.effects(found, contrasts(found))


def of(*scores, **changes):
    """Outcomes of one setting with these scores by seed."""
    made = [run(RunKey(*SETTING, seed), score, **changes) for seed, score in enumerate(scores)]
    return outcomes(made)


def test_means_and_spreads_are_those_of_the_seeds():
    rows = quality(of(50.0, 51.0, 55.0), tables.heading)
    assert len(rows) == 1
    # Mean 52; squares of -2, -1 and 3 over 2 degrees of freedom: the root of 7.
    assert rows[0][METRIC] == "52.00 ± 2.65"
    assert rows[0]["seeds"] == "3" and rows[0]["alignment"] == "0.400 ± 0.000"
    assert quality(of(50.0), tables.heading)[0][METRIC] == "50.00 (one seed)"


def test_a_run_that_diverged_is_counted_and_in_no_mean():
    made = [run(RunKey(*SETTING, seed), 50.0 + seed) for seed in range(3)]
    made[2] = run(RunKey(*SETTING, 2), 0.0, scores={}, diverged=True)
    row = quality(outcomes(made), tables.heading)[0]
    assert row[METRIC] == "50.50 ± 0.71" and row["diverged"] == "1" and row["seeds"] == "3"


def test_speed_and_memory_are_of_all_runs_of_a_batch_and_group():
    rows = tables.cost(outcomes(records({})))
    assert [(row["batch"], row["negatives of"], row["runs"]) for row in rows] == [
        ("64", "32", "6"), ("64", "all", "6"), ("256", "32", "12"), ("256", "all", "12"),
    ]  # fmt: skip
    assert rows[0]["examples per second"] == "101.0 ± 0.9"
    assert rows[2]["memory of a step, MB"] == "256.0"


def test_noise_and_signal_are_averaged_before_they_are_divided():
    made = [
        run(RunKey(*SETTING, 0), 50.0, noise=2.0, signal=1.0),
        run(RunKey(*SETTING, 1), 50.0, noise=4.0, signal=0.5),
    ]
    found = noise.critical(outcomes(made), SETTING)
    # 64 * mean(2, 4) / mean(1, 0.5); alone 64 * 2 and 64 * 8.
    assert (found.batch, found.low, found.high) == (256.0, 128.0, 512.0)
    assert str(found) == "256 (128 to 512)"
    row = noise.rows(outcomes(made))[0]
    assert row["in the run's first to last quarter"] == "128, 256" and row["estimate"] == "unbiased"
    # Of four devices each has 16 of the 64 examples: half a group.
    apart = dataclasses.replace(outcomes(made), parts=4)
    assert noise.rows(apart)[0]["estimate"] == "biased"
    # A group of 64 is two micro-batches of 32, in whatever batch it lies.
    crossing = Setting("infonce", 256, 64, "sqrt")
    assert noise.rows(outcomes([run(RunKey(*crossing, 0), 50.0)], WIDER))[0]["estimate"] == "biased"
    whole = Setting("infonce", 64, 64, "constant")
    assert noise.rows(outcomes([run(RunKey(*whole, 0), 50.0)]))[0]["estimate"] == "biased"


def test_noise_of_a_run_that_diverged_is_in_no_mean():
    made = [run(RunKey(*SETTING, seed), 50.0 + seed) for seed in range(2)]
    lost = {"scores": {}, "diverged": True, "noise": 1e9, "noise_parts": [1e9]}
    found = outcomes([*made, run(RunKey(*SETTING, 2), 0.0, **lost)])
    assert str(noise.critical(found, SETTING)) == str(noise.critical(outcomes(made), SETTING))
    assert noise.rows(found) == noise.rows(outcomes(made)) != []
    assert noise.critical(outcomes([run(RunKey(*SETTING, 2), 0.0, **lost)]), SETTING) is None


def test_a_signal_below_the_noise_has_no_critical_batch():
    found = noise.critical(of(50.0, signal=-0.1), SETTING)
    assert not math.isfinite(found.batch) and str(found) == "no signal above the noise"
    assert noise.critical(of(50.0, noise=None, signal=None), SETTING) is None
    assert noise.run_rows([run(RunKey(*SETTING, 0), 1.0, signal=-1.0)])[0]["critical_batch"] is None


def test_a_row_for_each_run():
    made = records({})
    rows = noise.run_rows(made)
    assert len(rows) == len(made) == 36
    assert rows[0]["batch"] == 64 and rows[0][METRIC] == made[0].values["scores"][METRIC]
    assert rows[0]["critical_batch"] == 64 * 3.0


def test_contrasts_are_paired_by_seed():
    found = outcomes(records({"whole": 2.0, "sqrt": 1.0, "dcl": -3.0}))
    every = {one.contrast.name: one for one in effects(found)}
    one = every["InfoNCE: negatives of 256 for 32, batch 256 in both"]
    assert len(one.contrast.pairs) == 2
    pairs = one.contrast.pairs
    sides = [
        [np.mean([found.scores(pair[side])[seed] for pair in pairs]) for seed in range(3)]
        for side in (0, 1)
    ]
    np.testing.assert_allclose(one.difference.mean, np.mean(sides[0]) - np.mean(sides[1]))
    np.testing.assert_allclose(one.difference.t_test, stats.ttest_rel(*sides).pvalue)
    batch = every["InfoNCE: batch 256 for 64, negatives of 32 in both, sqrt learning rate"]
    # At the base batch there is one learning rate, which stands for all rules.
    assert batch.contrast.pairs == [
        (Setting("infonce", 256, 32, "sqrt"), Setting("infonce", 64, 32, "constant"))
    ]
    assert {one.contrast.axis for one in every.values()} == {
        "batch", "negatives", "learning rate", "objective",
    }  # fmt: skip
    objective = every["DCL for InfoNCE"]
    assert len(objective.contrast.pairs) == 6
    assert all(a == b._replace(objective="dcl") for a, b in objective.contrast.pairs)
    assert abs(objective.difference.mean + 3) < 0.5


def test_a_seed_without_both_sides_is_left_out():
    made = records({})
    gone = RunKey("dcl", 256, 32, "sqrt", 1)
    found = outcomes([one for one in made if one.key != dataclasses.asdict(gone)])
    assert found.missing == 1
    every = {one.contrast.name: one for one in effects(found)}
    assert every["DCL for InfoNCE"].difference.count == 2
    nothing = outcomes([one for one in made if one.key["seed"] == (one.key["batch"] == 64)])
    batch = [one for one in effects(nothing) if one.contrast.axis == "batch"]
    assert batch and all(one.difference is None for one in batch)


@pytest.mark.parametrize(("metric", "higher"), [(METRIC, True), ("dev/uniformity", False)])
def test_which_way_is_better(metric, higher):
    assert outcomes(records({}), metric=metric).higher_is_better == higher
