"""Tables, comparisons and plots, from runs that were made up."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from simjax.lab.sweep.contrasts import effects
from simjax.lab.views import plots, tables
from simjax.lab.views.arms import ARMS, Setting, run_keys
from tests.lab.views.made_runs import GRID, METRIC, outcomes, records, run


def test_every_arm_is_compared_with_dropout_alone_by_seed():
    made = records({"crop20": -8.0})
    found = effects(outcomes(made), tables.contrasts(outcomes(made)))
    assert [(one.contrast.axis, one.contrast.pairs) for one in found] == [
        (axis, [(Setting(arm), Setting("dropout"))])
        for axis, arm in (
            ("augmentation", "crop20"),
            ("augmentation", "delete10"),
            ("dropout", "none"),
            ("temperature", "temperature0.1"),
        )
    ]
    scores = {(r.key["arm"], r.key["seed"]): r.values["scores"][METRIC] for r in made}
    sides = [[scores[arm, seed] for seed in range(3)] for arm in ("crop20", "dropout")]
    difference = found[0].difference
    assert difference.mean == pytest.approx(np.subtract(*sides).mean())
    assert difference.t_test == pytest.approx(stats.ttest_rel(*sides).pvalue)
    # Four comparisons are corrected together, and this one is the clearest.
    assert difference.holm == pytest.approx(min(1, 4 * difference.t_test))


def test_a_table_has_a_row_for_each_arm():
    made = outcomes(records({"crop20": -8.0}))
    found = effects(made, tables.contrasts(made))
    first, crop, delete = tables.rows("augmentation", made, found)
    assert (first["arm"], first["seeds"], first["reading"]) == ("dropout alone", 3, "")
    scores = [r.values["scores"][METRIC] for r in records({}) if r.key["arm"] == "dropout"]
    assert first[METRIC] == f"{np.mean(scores):.2f} ± {np.std(scores, ddof=1):.2f}"
    assert first["alignment"] == "0.500 ± 0.000"
    assert crop["arm"] == "crop 20 %" and crop["reading"].startswith("worse")
    assert delete["reading"].startswith("within the spread of the seeds")
    base, warmer = tables.rows("temperature", made, found)
    assert (base["arm"], warmer["arm"]) == ("temperature 0.05", "temperature 0.1")
    assert (base["SimCSE, BERT-base"], warmer["SimCSE, BERT-base"]) == (86.2, 82.0)
    assert "SimCSE, BERT-base" not in first
    rates = tables.rows("dropout", made, found)
    assert [row["arm"] for row in rates] == ["dropout 0.1", "no dropout"]


def test_a_trajectory_is_the_mean_over_seeds_that_did_not_diverge():
    made = records({})
    lost = run(next(iter(run_keys(GRID))), 1.0, diverged=True, scores={})
    kept = outcomes([lost, *made[1:]])
    points = kept.path(Setting("dropout"), "uniformity", "alignment")
    assert points == [(-1.0, 1.0), (-2.0, pytest.approx(np.mean([0.6, 0.7])))]
    rows = tables.path_rows(kept)
    assert len(rows) == 2 * 15 and rows[0]["arm"] == "dropout" and rows[1]["step"] == 12
    for values in kept.runs[Setting("crop20")].values():
        values["trajectory"] = [{"step": 0, METRIC: 3.0}]
    assert kept.path(Setting("crop20"), "uniformity", "alignment") == []
    assert kept.path(Setting("crop20"), "spearman") == [(3.0,)]


def test_plots_say_what_they_show():
    made = outcomes(records({}))
    quality, geometry = plots.quality(made), plots.geometry(made)
    assert geometry is not None
    assert quality.png[:4] == geometry.png[:4] == b"\x89PNG"
    assert "where runs start (40.00)" in quality.caption
    assert "uniformity falls in 5 of 5 arms and alignment in 5." in geometry.caption
    for setting in made.settings:
        for values in made.runs[setting].values():
            values["trajectory"] = []
    assert plots.geometry(made) is None
    assert "start" not in plots.quality(made).caption


def test_arms_are_what_their_names_say():
    for name, arm in ARMS.items():
        number = float("".join(c for c in name if c.isdigit() or c == ".") or "nan")
        if name.startswith(("crop", "mask")) or name in ("delete10", "delete20", "delete30"):
            assert [change.rate for change in arm.augment] == [number / 100]
        elif name.startswith("dropout0"):
            assert arm.dropout == pytest.approx(number, abs=3e-4)
        elif name.startswith("temperature"):
            assert arm.temperature == number and arm.published
    assert all(change.views == "positives" for arm in ARMS.values() for change in arm.augment)
