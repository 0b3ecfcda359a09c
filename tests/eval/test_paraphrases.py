"""Held-out paraphrases: their file, and the perplexity of one behind the other."""

import math

import numpy as np
import pytest

from simjax.errors import SimjaxError
from simjax.eval.paraphrases import ParaphraseSet, perplexity, read_paraphrases
from simjax.eval.predictions import Predictors
from simjax.eval.tasks import (
    EvalConfig,
    Task,
    evaluate,
    higher_is_better,
    load,
    metric_names,
    run,
)

ROWS = "sentence1\tsentence2\tlabel\na\tb c\t1\nx\ty\t0\n\nd e\tf\t1\n"


@pytest.fixture
def path(tmp_path):
    (tmp_path / "dev.tsv").write_text(ROWS)
    return tmp_path / "dev.tsv"


def of_words(pairs):
    """A word costs its place in the alphabet, and the end of a text 1."""
    losses = [sum(ord(word) - 96.0 for word in two.split()) + 1 for _, two in pairs]
    return np.asarray(losses), np.asarray([len(two.split()) + 1 for _, two in pairs])


def test_pairs_that_mean_the_same_are_read(path, tmp_path):
    assert read_paraphrases(path).pairs == [("a", "b c"), ("d e", "f")]
    unlabelled = tmp_path / "x.tsv"
    unlabelled.write_text("sentence2\tsentence1\nb\ta\n")
    assert read_paraphrases(unlabelled).pairs == [("a", "b")]


def test_perplexity_is_of_a_token_in_both_orders():
    data = ParaphraseSet([("a", "b c"), ("d e", "f")])
    total = (2 + 3 + 1) + (6 + 1) + (1 + 1) + (4 + 5 + 1)
    assert perplexity(data.behind, of_words) == pytest.approx(math.exp(total / (3 + 2 + 2 + 3)))


def test_it_is_a_task_among_others(path, tmp_path):
    (tmp_path / "sts.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t1\nc\td\t5\na\td\t2\n")
    config = EvalConfig(tasks=(Task("paraphrases", "dev.tsv", "pairs"), Task("sts", "sts.tsv")))
    tasks = load(config, tmp_path)

    def encode(texts):
        return np.random.default_rng(0).normal(size=(len(texts), 4))

    scores = run(tasks, encode, Predictors(of_words))
    assert list(scores) == metric_names(tasks)
    assert scores["pairs/perplexity"] == perplexity(read_paraphrases(path).behind, of_words)
    assert not higher_is_better("pairs/perplexity")
    assert "pairs" not in evaluate(tasks, encode, Predictors(of_words)).spectra
    with pytest.raises(SimjaxError, match="pairs: the model predicts no texts"):
        run(tasks, encode)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("sentence1\tother\na\tb\n", r":1: no column 'sentence2'"),
        ("sentence1\tsentence2\na\tb\tc\n", r":2: 3 tab-separated fields, the header has 2"),
        (ROWS.replace("\t0", "\t2"), r":3: label '2' is neither 0 nor 1"),
        (ROWS.replace("d e", " "), r":5: a text is empty"),
        (ROWS.replace("\t1", "\t0"), "holds no paraphrases"),
    ],
)
def test_faults_are_told_with_their_line(path, content, says):
    path.write_text(content)
    with pytest.raises(SimjaxError, match=says):
        read_paraphrases(path)
