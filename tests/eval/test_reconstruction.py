"""Held-out texts that are written again: their file, and the perplexity of each behind itself."""

import gzip
import math

import numpy as np
import pytest

from simjax.errors import NotFiniteError, SimjaxError
from simjax.eval.paraphrases import perplexity
from simjax.eval.predictions import Predictors
from simjax.eval.reconstruction import TextSet, read_text_set
from simjax.eval.tasks import EvalConfig, Task, load, metric_names, run, sizes
from tests.eval.test_paraphrases import of_words


def test_texts_are_read_once_from_columns_or_lines(tmp_path):
    (tmp_path / "a.tsv").write_text("score\tsentence2\tsentence1\n1\tb c\td\n2\td\t \n\n")
    assert read_text_set(tmp_path / "a.tsv").texts == ["d", "b c"]
    (tmp_path / "b.tsv").write_text("sentence\tlabel\na b\t1\n")
    assert read_text_set(tmp_path / "b.tsv").texts == ["a b"]
    with gzip.open(tmp_path / "c.txt.gz", "wt") as file:
        file.write("a\tb\n\nc\na\tb\n")
    assert read_text_set(tmp_path / "c.txt").texts == ["a\tb", "c"]


def test_it_is_a_task_whose_texts_stand_behind_themselves(tmp_path):
    (tmp_path / "held.txt").write_text("a b\nc\n")
    tasks = load(EvalConfig(tasks=(Task("reconstruction", "held.txt"),)), tmp_path)
    assert metric_names(tasks) == ["held/perplexity"] and sizes(tasks) == {"held": "2 texts"}
    asked = []

    def likelihood(pairs):
        asked.extend(pairs)
        return of_words(pairs)

    scores = run(tasks, None, Predictors(likelihood))
    assert asked == [("a b", "a b"), ("c", "c")]
    assert scores == {"held/perplexity": pytest.approx(math.exp((1 + 2 + 1 + 3 + 1) / 5))}
    with pytest.raises(SimjaxError, match="held: the model predicts no texts"):
        run(tasks, None)


@pytest.mark.parametrize("loss", [800.0, math.inf, math.nan])
def test_a_perplexity_that_is_not_finite_is_refused(tmp_path, loss):
    def likelihood(pairs):
        return np.full(len(pairs), loss), np.ones(len(pairs), np.int64)

    with pytest.raises(NotFiniteError, match=rf"not finite \(-log p of a token is {loss:g}\)"):
        perplexity(TextSet(["a"]).behind, likelihood)
    (tmp_path / "held.txt").write_text("a\n")
    tasks = load(EvalConfig(tasks=(Task("reconstruction", "held.txt"),)), tmp_path)
    with pytest.raises(NotFiniteError, match="held: the perplexity is not finite"):
        run(tasks, None, Predictors(likelihood))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a\tb\n1\t2\n", r":1: no column 'sentence' or 'sentence1' or 'sentence2'"),
        ("sentence\tb\nx\n", r":2: 1 tab-separated fields, the header has 2"),
        ("sentence\n\n", r"holds no text"),
    ],
)
def test_faults_are_told_with_their_line(tmp_path, content, says):
    (tmp_path / "a.tsv").write_text(content)
    with pytest.raises(SimjaxError, match=says):
        read_text_set(tmp_path / "a.tsv")
