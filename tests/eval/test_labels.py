"""Held-out pairs with labels: their file, and how many of them get their class."""

import numpy as np
import pytest

from simjax.errors import SimjaxError
from simjax.eval.labels import LabelledSet, accuracy, read_labelled
from simjax.eval.predictions import Predictors
from simjax.eval.tasks import EvalConfig, Task, evaluate, load, metric_names, run, sizes

ROWS = "sentence1\tlabel\tsentence2\na\tyes\tb\nb\tno\tc d\n\nc\tno\tc\nd\tyes\te\n"


@pytest.fixture
def path(tmp_path):
    (tmp_path / "dev.tsv").write_text(ROWS)
    return tmp_path / "dev.tsv"


def always_no(pairs, labels):
    return ["no"] * len(pairs)


def test_pairs_and_labels_are_read(path, tmp_path):
    found = read_labelled(path)
    assert found.pairs == [("a", "b"), ("b", "c d"), ("c", "c"), ("d", "e")]
    assert found.labels == ["yes", "no", "no", "yes"]
    snli = tmp_path / "snli.tsv"
    snli.write_text("premise\thypothesis\tlabel\na\tb\tneutral\n")
    assert read_labelled(snli) == LabelledSet([("a", "b")], ["neutral"])


def test_a_class_counts_where_it_is_the_label():
    data = LabelledSet([("a", "b"), ("c", "d"), ("e", "f")], ["no", "yes", "no"])
    assert accuracy(data, always_no) == pytest.approx(200 / 3)


def test_it_is_a_task_among_others(path, tmp_path):
    (tmp_path / "sts.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t1\nc\td\t5\na\td\t2\n")
    config = EvalConfig(tasks=(Task("labels", "dev.tsv", "pairs"), Task("sts", "sts.tsv")))
    tasks = load(config, tmp_path)
    assert sizes(tasks)["pairs"] == "4 pairs"

    def encode(texts):
        return np.random.default_rng(0).normal(size=(len(texts), 4))

    predictors = Predictors(classify=always_no)
    scores = run(tasks, encode, predictors)
    assert list(scores) == metric_names(tasks) and scores["pairs/accuracy"] == 50
    assert "pairs" not in evaluate(tasks, encode, predictors).spectra
    with pytest.raises(SimjaxError, match="pairs: the model finds no classes"):
        run(tasks, encode)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("sentence1\tother\tlabel\na\tb\tc\n", r":1: no column 'sentence2' or 'hypothesis'"),
        ("sentence1\tsentence2\na\tb\n", r":1: no column 'label'"),
        (ROWS.replace("no\tc d", "no"), r":3: 2 tab-separated fields, the header has 3"),
        (ROWS.replace("b\tno\tc d", "b\tno\t "), r":3: a text is empty"),
        (ROWS.replace("no\tc\n", " \tc\n"), r":5: no label"),
        ("sentence1\tsentence2\tlabel\n\n", r"holds no pairs"),
    ],
)
def test_faults_are_told_with_their_line(path, content, says):
    path.write_text(content)
    with pytest.raises(SimjaxError, match=says):
        read_labelled(path)
