"""What part two says follows from its runs, and turns round where they do."""

import numpy as np
import pytest
from scipy import stats

from simjax.lab.precision import outcomes, plots, tables
from simjax.lab.precision.comparisons import QUESTIONS, Setting, compare, compared, pooled
from simjax.lab.statistics import holm
from tests.lab.precision.made_runs import chosen, diverge, measurement, run, runs

CANCELLATION, SCALE, WEIGHTING, TOGETHER = QUESTIONS
SETTING = Setting("corpus", "adamw", "float32", 4)
MEANS = {"cross_entropy": 50.0, "softplus": 50.0, "rescaled": 50.0, "flatnce": 53.0}


def said(records, question, **options):
    found = chosen(records, **options)
    return outcomes.conclusions(found, compare(found))[QUESTIONS.index(question)]


def test_a_rate_is_chosen_on_the_half_that_is_not_reported():
    records = [
        run("softplus", seed, score, rate=rate, select=select)
        for rate, select, score in ((0.1, 40, 90), (0.2, 60, 10), (0.4, 50, 50))
        for seed in (0, 1)
    ]
    found = chosen(records).best[SETTING, "softplus"]
    assert (found.rate, found.edge) == (0.2, False)
    assert found.scores("ndcg@10") == {0: 10, 1: 10}
    # 0.2 is now the highest rate of those that were tried.
    assert chosen(records[:4]).best[SETTING, "softplus"].edge
    assert not chosen(records[:2]).best[SETTING, "softplus"].edge


def test_each_score_chooses_its_own_rate():
    records = [run("softplus", 0, 10, rate=0.1, select=60), run("softplus", 0, 20, rate=0.2)]
    for record, spearman in zip(records, (30, 70), strict=True):
        record.values["scores"] |= {"select/spearman": spearman, "spearman": spearman}
    assert compared(records) == ["spearman", "ndcg@10"]
    both = [chosen(records, metric) for metric in compared(records)]
    assert [one.best[SETTING, "softplus"].rate for one in both] == [0.2, 0.1]
    (row,) = tables.scores(both)
    assert row["rate for spearman"].startswith("0.2") and row["spearman"] == "70.00"
    assert row["rate for ndcg@10"].startswith("0.1") and row["ndcg@10"] == "10.00"


def test_arms_are_compared_where_both_are_complete():
    planned = runs(MEANS)
    records = [one for one in planned if one is not planned[3]]
    gone = planned[3].key
    found = chosen(records, planned=planned)
    place = (Setting("corpus", gone["optimizer"], "float32", gone["batch"]), gone["arm"])
    assert found.missing == {place: 1} and place not in found.best
    assert len(compare(found)) == 4 * 4 - 2
    assert outcomes.unfinished(found) == f"{place[0]} (cross-entropy)"
    nothing = chosen(records[:1], planned=planned)
    assert not nothing.best and compare(nothing) == []
    assert "not completely" in said(records[:1], CANCELLATION, planned=planned)


def test_comparisons_are_paired_by_seed_and_corrected_together():
    records = runs(MEANS, wobble=1.0)
    diverge(records[0])  # cross-entropy, batch 4, AdamW, seed 0
    rows = compare(chosen(records))
    found = {(row.setting, row.question): row.difference for row in rows}
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
    by_hand = holm([row.difference for row in rows])
    assert [row.difference.holm for row in rows] == [one.holm for one in by_hand]
    smallest = min(row.difference.t_test for row in rows)
    assert min(row.difference.holm for row in rows) == pytest.approx(len(rows) * smallest)
    # The table has the same numbers.
    shown = tables.comparisons(rows)[rows.index((SETTING, WEIGHTING, found[SETTING, WEIGHTING]))]
    assert float(shown["t-test p"]) == pytest.approx(expected.pvalue, rel=0.01)
    assert float(shown["Holm p"]) == pytest.approx(found[SETTING, WEIGHTING].holm, rel=0.01)


def test_the_table_has_standard_deviations():
    (row,) = tables.scores([chosen([run("softplus", n, x) for n, x in enumerate((50, 51, 54))])])
    assert row["ndcg@10"] == f"51.67 ± {np.std([50, 51, 54], ddof=1):.2f}"


def test_pooling_lets_seeds_vary_and_settings_not():
    records = runs({"flatnce": 1.0, "rescaled": 0.0}, wobble=1.0)
    whole = pooled(chosen(records), WEIGHTING)

    def means(arm, **only):
        return [
            np.mean(
                [
                    record.values["scores"]["ndcg@10"]
                    for record in records
                    if record.key | {"arm": arm, "seed": seed, **only} == record.key
                ]
            )
            for seed in range(5)
        ]

    expected = stats.ttest_rel(means("flatnce"), means("rescaled"))
    assert whole.count == 5
    assert whole.t_test == pytest.approx(expected.pvalue)
    for record in records:
        if record.key["optimizer"] == "sgd" and record.key["arm"] == "flatnce":
            record.values["scores"]["ndcg@10"] += 7
    part = pooled(chosen(records), WEIGHTING, optimizer="sgd")
    assert part.mean == pytest.approx(8)
    assert pooled(chosen(records), WEIGHTING, dtype="bfloat16") is None
    assert pooled(chosen(records), WEIGHTING, block="easy") is None
    assert pooled(chosen(records), CANCELLATION) is None


def test_pooled_questions_are_corrected_together():
    rows = outcomes.by_part(chosen(runs(MEANS, wobble=1.0)))
    found = [pooled(chosen(runs(MEANS, wobble=1.0)), q, optimizer="adamw") for q in QUESTIONS]
    smallest = min(one.t_test for one in found)
    assert min(float(row["Holm p"]) for row in rows) == pytest.approx(
        len(rows) * smallest, rel=0.01
    )


def test_conclusions_turn_round_with_the_numbers():
    assert "+3.00" in said(runs(MEANS, wobble=0.1), WEIGHTING)
    better = said(runs(MEANS, wobble=0.1), WEIGHTING)
    assert ": better. Over 4 settings" in better and "In 4 of 4 single settings" in better
    worse = said(runs(MEANS | {"flatnce": 47.0}, wobble=0.1), WEIGHTING)
    assert ": worse. Over 4 settings" in worse and "(0 better, 4 worse" in worse
    # The same difference, with seeds that scatter more than it.
    spread = said(runs(MEANS, wobble=30.0), WEIGHTING)
    assert "+3.00" in spread and "within the spread of the seeds (only a difference of" in spread
    assert "In every single" in spread
    # Too small to matter, and seeds that are close enough to say so.
    small = said(runs(MEANS | {"flatnce": 50.1}, wobble=0.5), WEIGHTING)
    assert "no difference of 1 or more" in small


def test_easy_pairs_are_told_of_by_themselves():
    easy = [
        run(arm, seed, 40 + by + 0.1 * seed * by, block="easy")
        for arm, by in (("cross_entropy", 0), ("softplus", 5))
        for seed in range(5)
    ]
    found = chosen([*runs(MEANS), *easy])
    *others, last = outcomes.conclusions(found, compare(found))
    assert last.startswith("Cancellation on easy pairs (softplus(v) minus cross-entropy): better.")
    assert "Over 1 setting " in last
    assert "equal with every seed" in others[0]


def test_the_largest_difference_is_named():
    records = runs(MEANS, wobble=0.1)
    for record in records:
        if record.key["arm"] == "flatnce" and record.key["batch"] == 8:
            record.values["scores"]["ndcg@10"] += 4
    told = said(records, WEIGHTING)
    assert "The largest of them: +7.00" in told and told.endswith("batch 8.")


def test_no_difference_is_equal():
    assert "equal with every seed" in said(runs(MEANS), CANCELLATION)
    assert "by the same amount with every seed: no test" in said(runs(MEANS), WEIGHTING)


def test_what_was_not_measured_is_said():
    only = runs({"softplus": 1.0})
    assert said(only, CANCELLATION).endswith("not measured, or not completely.")
    single = said(runs(MEANS, seeds=1), TOGETHER)
    assert "one seed: no interval" in single and "cannot tell: one seed" in single


def test_runs_that_diverged_have_no_score_anywhere():
    records = [run("softplus", seed, 50 + seed, rate=rate) for rate in (1, 2) for seed in (0, 1)]
    records[2].values["scores"]["select/ndcg@10"] = 99
    diverge(records[3])
    found = chosen(records)
    best = found.best[SETTING, "softplus"]
    # A rate that loses a seed does not win by what is left.
    assert (best.rate, best.diverged) == (1, ())
    assert "1 of 4 runs diverged" in outcomes.trouble(records, found)[0]
    diverge(records[0])
    found = chosen(records)
    assert found.best[SETTING, "softplus"].diverged == (1,)
    assert "1 of 2" in outcomes.trouble(records, found)[0]
    (row,) = tables.scores([found])
    assert (row["ndcg@10"], row["seeds"]) == ("50.00", "1 (1 diverged)")
    for record in records:
        diverge(record)
    found = chosen(records)
    assert found.lost == ((SETTING, "softplus"),) and not found.best
    assert "all at every rate" in outcomes.trouble(records, found)[0]
    assert tables.scores([found]) == []


def test_parts_and_warnings():
    found = chosen(runs(MEANS, wobble=0.1))
    rows = outcomes.by_part(found)
    assert {row["setting"] for row in rows} == {"AdamW, float32", "SGD, float32"}
    assert [row["reading"] for row in rows if row["question"] == "weighting"] == ["better"] * 2
    assert "inside of its grid" in outcomes.edges(found)
    assert outcomes.trouble([], found)[0] == "No run diverged."
    assert "no update was dropped" in outcomes.trouble([], found)[1]
    records = [run("softplus", 0, score, rate=score) for score in (1.0, 2.0)]
    records[1].values["dropped"] = 3
    found = chosen(records)
    assert "in 1 of 1 cases" in outcomes.edges(found)
    assert "softplus(v) with AdamW, float32, batch 4: 3" in outcomes.trouble(records, found)[1]


def test_whether_cancellation_could_show():
    records = [run("softplus", 0, 1.0)]
    records[0].values["history"]["mean_weight"] = [0.1, None, 0.3]
    cancels, harmless = measurement(0.8, 1e-6, 0, ratio=0.2), measurement(1e-6, 1e-6, 0, ratio=0.2)
    elsewhere = measurement(0.8, 1e-6, 0, ratio=1e-9)
    told = outcomes.expectation(records, [cancels, elsewhere], "corpus")
    assert "from 0.1 to 0.3" in told and "on 1 inputs" in told
    assert told.endswith("could show in float32 and bfloat16.")
    told = outcomes.expectation(records, [harmless, elsewhere], "corpus")
    assert told.endswith("no effect of cancellation was to be expected in these runs.")
    assert "no input with such weights" in outcomes.expectation(records, [elsewhere], "corpus")
    assert outcomes.expectation(records, [cancels], "easy") is None


def test_captions_of_part_two():
    rows = compare(chosen(runs(MEANS, wobble=0.1)))
    assert "weighting 4 of 4" in plots.differences_caption(rows, "ndcg@10")
    rows = compare(chosen(runs(MEANS, wobble=30.0)))
    assert "weighting 0 of 4" in plots.differences_caption(rows, "ndcg@10")
    single = chosen([run("flatnce", 0, 1.0)])
    assert "one seed" in plots.scores(single).caption
    single.best[SETTING, "flatnce"].runs[0]["history"]["grad_norm"] = [None, 4.0]
    assert "FlatNCE 4 at batch 4" in plots.courses(single).caption
