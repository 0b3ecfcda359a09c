"""Rows of a block, from a stated length and from texts."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from simjax.data.config import DataConfig
from simjax.data.sources import Source
from simjax.errors import SimjaxError, UsageError
from simjax.plan import rows
from tests.tiny_models import bert_tokenizer

DATA = DataConfig(batch_size=4096, block_size=64, row_length=128, max_length=64)


@pytest.mark.parametrize("mean", [8.0, 24.0, 60.0])
def test_a_stated_mean_is_met_and_rows_are_nearly_full(mean):
    found = rows.stated(DATA, mean)
    assert found.tokens == pytest.approx(mean, rel=0.01)
    least = math.ceil(64 * 2 * mean / 128)
    assert least <= found.rows <= 1.15 * least + 1
    assert 0.8 < found.fill <= 1


def test_a_mean_that_no_text_has():
    with pytest.raises(UsageError, match="--tokens 65: texts have 3 to 64 tokens"):
        rows.stated(DATA, 65)


def test_without_a_length_texts_are_as_long_as_they_may_be():
    found = rows.longest(dataclasses.replace(DATA, views="dropout", num_views=3), "of a reason")
    assert (found.rows, found.views, found.positives, found.fill) == (96, 3, 2, 1.0)
    assert "64 tokens: at most, since of a reason" in found.source


def test_the_data_says_it_where_it_is_here(tmp_path):
    lines = ["anchor,positive,negative", *["a cat,the fish in the park,the man"] * 40]
    (tmp_path / "triples.csv").write_text("\n".join(lines) + "\n")
    source = Source(
        path="triples.csv", anchor="anchor", positives=("positive",), negatives=("negative",)
    )
    data = dataclasses.replace(
        DATA, source=source, root=str(tmp_path), batch_size=32, block_size=32
    )
    tokenizer = bert_tokenizer()
    found = rows.measured(data, tokenizer)
    texts = ["a cat", "the fish in the park", "the man"]
    expected = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    assert (found.views, found.positives) == (3, 1) == rows.num_views(data)
    assert found.tokens == pytest.approx(sum(expected) / 3)
    assert found.rows >= math.ceil(32 * sum(expected) / 128)
    assert rows.readable(data)
    assert not rows.readable(dataclasses.replace(data, root=str(tmp_path / "none")))


def write(path, *examples):
    path.write_text("\n".join(json.dumps(example) for example in examples) + "\n")
    return Source(path=path.name)


def test_columns_that_are_not_named_and_lists_have_the_views_that_training_finds(tmp_path):
    more = {"anchor": "a cat", "positive": ["the fish", "the park"], "negative": "the man"}
    source = write(tmp_path / "lists.jsonl", more, {**more, "positive": ["the fish"]})
    data = dataclasses.replace(DATA, source=source, root=str(tmp_path))
    assert rows.num_views(data) == (4, 2)
    found = rows.stated(data, 8)
    assert (found.views, found.positives) == (4, 2)
    named = Source(path="none.jsonl", anchor="a", positives=("p", "q"), negatives=("n",))
    assert rows.num_views(dataclasses.replace(data, source=named)) == (4, 2)
    assert rows.num_views(dataclasses.replace(data, source=Source(path="none.csv"))) == (2, 1)


def test_of_several_sources_each_counts(tmp_path):
    short = write(tmp_path / "pairs.jsonl", {"anchor": "a", "positive": "fish"})
    words = "the man and the woman sit in the park and the cat eats fish"
    long = write(
        tmp_path / "triples.jsonl", {"anchor": words, "positive": words, "negative": words}
    )
    data = dataclasses.replace(
        DATA, source=Source(), sources=(short, long), root=str(tmp_path), batch_size=64
    )
    tokenizer = bert_tokenizer()
    few, many = (len(ids) for ids in tokenizer(["a", words])["input_ids"])
    assert few < many
    turns = rows.measured(data, tokenizer)
    # A batch of the second source alone, whose examples have the negative.
    assert (turns.views, turns.positives) == (3, 1)
    assert turns.rows >= math.ceil(64 * 3 * many / 128) and turns.tokens == many

    weighed = tuple(
        dataclasses.replace(one, weight=weight)
        for one, weight in zip((short, long), (3.0, 1.0), strict=True)
    )
    mixed = rows.measured(dataclasses.replace(data, sources=weighed, mixing="mixed"), tokenizer)
    assert math.ceil(16 * 3 * many / 128) <= mixed.rows < turns.rows
    assert few < mixed.tokens < many
    assert rows.readable(data)
    gone = dataclasses.replace(data, sources=(short, Source(path="none.jsonl")))
    assert not rows.readable(gone)


def test_anchors_alone_are_refused_as_training_does(tmp_path):
    source = write(tmp_path / "texts.jsonl", {"text": "a cat"})
    data = dataclasses.replace(DATA, source=source, root=str(tmp_path))
    with pytest.raises(SimjaxError, match=r"texts.jsonl: the examples have an anchor and no pos"):
        rows.measured(data, bert_tokenizer())
    views = rows.measured(dataclasses.replace(data, views="dropout"), bert_tokenizer())
    assert (views.views, views.positives) == (2, 1)
