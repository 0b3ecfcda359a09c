"""Rows of a block, from a stated length and from texts."""

from __future__ import annotations

import dataclasses
import math

import pytest

from simjax.data.config import DataConfig
from simjax.data.sources import Source
from simjax.errors import UsageError
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
    found = rows.longest(dataclasses.replace(DATA, views="dropout", num_views=3))
    assert (found.rows, found.views, found.fill) == (96, 3, 1.0)


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
    assert found is not None and found.views == 3 == rows.num_views(data)[0]
    assert found.tokens == pytest.approx(sum(expected) / 3)
    assert found.rows >= math.ceil(32 * sum(expected) / 128)
    assert rows.readable(data)
    assert not rows.readable(dataclasses.replace(data, root=str(tmp_path / "none")))
