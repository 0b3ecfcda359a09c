"""What part two says follows from its runs, and turns round where they do."""

import numpy as np
import pytest
from scipy import stats

from simjax.lab.precision import outcomes
from simjax.lab.precision.comparisons import QUESTIONS, Setting, best, compare, pooled, primary
from tests.lab.precision.made_runs import run, runs

CANCELLATION, SCALE, WEIGHTING, TOGETHER = QUESTIONS
SETTING = Setting("adamw", "float32", 4)
MEANS = {"cross_entropy": 50.0, "softplus": 50.0, "rescaled": 50.0, "flatnce": 53.0}


def said(records, question):
    chosen = best(records)
    metric = primary(records)
    return outcomes.conclusion(chosen, compare(chosen, [metric]), question, metric)


def test_a_rate_is_chosen_on_the_half_that_is_not_reported():
    records = [
        run("softplus", seed, score, rate=rate, select=select)
        for rate, select, score in ((0.1, 40, 90), (0.2, 60, 10), (0.4, 50, 50))
        for seed in (0, 1)
    ]
    found = best(records)[SETTING, "softplus"]
    assert (found.rate, found.edge) == (0.2, False)
    assert found.scores("ndcg@10") == {0: 10, 1: 10}
    # 0.2 is now the highest rate of those that were tried.
    assert best(records[:4])[SETTING, "softplus"].edge
    assert not best(records[:2])[SETTING, "softplus"].edge


def test_rates_with_missing_seeds_do_not_compete():
    records = [run("softplus", seed, 10, rate=0.1) for seed in (0, 1)]
    records.append(run("softplus", 0, 99, rate=0.2))
    assert best(records)[SETTING, "softplus"].rate == 0.1


def test_sts_is_what_counts_where_it_is():
    records = runs(MEANS, seeds=1)
    assert primary(records) == "ndcg@10"
    records[0].values["scores"]["spearman"] = 1.0
    assert primary(records) == "spearman"


def test_comparisons_are_paired_by_seed():
    records = runs(MEANS, wobble=1.0)
    del records[0]  # cross-entropy, batch 4, AdamW, seed 0
    found = {
        (row.setting, row.question): row.difference for row in compare(best(records), ["ndcg@10"])
    }
    assert len(found) == 4 * 4
    assert found[SETTING, CANCELLATION].count == 4
    assert found[SETTING, WEIGHTING].count == 5
    scores = {
        arm: [
            record.values["scores"]["ndcg@10"]
            for record in records
            if (record.key["arm"], record.key["batch"], record.key["optimizer"])
            == (arm, 4, "adamw")
        ]
        for arm in ("flatnce", "rescaled")
    }
    expected = stats.ttest_rel(scores["flatnce"], scores["rescaled"])
    assert found[SETTING, WEIGHTING].t_test == pytest.approx(expected.pvalue)
    assert found[SETTING, WEIGHTING].holm >= found[SETTING, WEIGHTING].t_test


def test_pooling_lets_seeds_vary_and_settings_not():
    records = runs({"flatnce": 1.0, "rescaled": 0.0}, wobble=1.0)
    whole = pooled(best(records), WEIGHTING, "ndcg@10")
    means = {
        arm: [
            np.mean(
                [
                    record.values["scores"]["ndcg@10"]
                    for record in records
                    if (record.key["arm"], record.key["seed"]) == (arm, seed)
                ]
            )
            for seed in range(5)
        ]
        for arm in ("flatnce", "rescaled")
    }
    expected = stats.ttest_rel(means["flatnce"], means["rescaled"])
    assert whole.count == 5
    assert whole.t_test == pytest.approx(expected.pvalue)
    assert pooled(best(records), WEIGHTING, "ndcg@10", dtype="bfloat16") is None
    assert pooled(best(records), CANCELLATION, "ndcg@10") is None


def test_conclusions_turn_round_with_the_numbers():
    assert "+3.00" in said(runs(MEANS, wobble=0.1), WEIGHTING)
    assert ": better. In 4 of 4 single settings" in said(runs(MEANS, wobble=0.1), WEIGHTING)
    worse = said(runs(MEANS | {"flatnce": 47.0}, wobble=0.1), WEIGHTING)
    assert ": worse. In 4 of 4" in worse and "(0 better, 4 worse" in worse
    # The same difference, with seeds that scatter more than it.
    spread = said(runs(MEANS, wobble=30.0), WEIGHTING)
    assert "+3.00" in spread and "within the spread of the seeds. In every single" in spread


def test_no_difference_is_within_the_spread():
    assert "within the spread of the seeds" in said(runs(MEANS), CANCELLATION)
    assert "+0.00" in said(runs(MEANS), CANCELLATION)


def test_what_was_not_measured_is_said():
    only = runs({"softplus": 1.0})
    assert said(only, CANCELLATION).endswith("not measured.")
    single = said(runs(MEANS, seeds=1), TOGETHER)
    assert "one seed: no interval" in single and "within the spread" in single


def test_parts_and_warnings():
    chosen = best(runs(MEANS, wobble=0.1))
    rows = outcomes.by_part(chosen, "ndcg@10")
    assert {row["setting"] for row in rows} == {"AdamW, float32", "SGD, float32"}
    assert [row["reading"] for row in rows if row["question"] == "weighting"] == ["better"] * 2
    assert outcomes.edges(chosen).startswith("Every arm's")
    assert outcomes.dropped(chosen).startswith("No update")
    records = [run("softplus", 0, score, rate=score) for score in (1.0, 2.0)]
    records[1].values["dropped"] = 3
    assert "In 1 of 1 cases" in outcomes.edges(best(records))
    assert "softplus with AdamW, float32, batch 4: 3" in outcomes.dropped(best(records))
