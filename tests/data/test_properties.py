"""Ids and sources, held to what must be true of any text and of any file."""

from __future__ import annotations

import gzip
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from simjax.data.sources import Example, Source, read
from simjax.data.token_store import build
from simjax.data.tokenizer import train_wordpiece
from simjax.errors import SimjaxError

on_files = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=settings.default.max_examples // 2,
)

# Few letters, so that equal texts are common: cases, ligatures, widths, joined and split accents.
letters = st.sampled_from("aAbﬁfi\uff21 éÉe\u0301\u200b\u00a0\tßsS1")
texts = st.text(letters, min_size=1, max_size=5).filter(lambda text: text.strip())


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece(["aAbfiéß s 1"] * 2, 60)


def form(text: str) -> str:
    """The documented form of a text, step by step: NFKC, case folding, single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(" " if letter.isspace() else letter for letter in folded).strip(" ")


def same(a: str, b: str) -> bool:
    return [p for p in form(a).split(" ") if p] == [p for p in form(b).split(" ") if p]


@on_files
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=8))
def test_ids_are_dense_and_equal_only_for_texts_that_count_as_equal(tmp_path, tokenizer, pairs):
    records = [json.dumps({"anchor": a, "positive": b}) for a, b in pairs]
    (tmp_path / "x.jsonl").write_text("\n".join(records))
    source = Source(path="x.jsonl")
    store = build(source, tmp_path, tokenizer, max_length=16, cache=tmp_path / "cache")
    found = [text for pair in pairs for text in pair]
    ids = store.text_ids
    assert len(ids) == len(found) and len(store.examples) == len(pairs)
    # Dense, by first appearance: each new id is the next one.
    highest = np.maximum.accumulate(ids)
    assert ids[0] == 0 and (np.diff(highest) <= 1).all()
    assert (ids >= 0).all() and len(np.unique(ids)) == highest[-1] + 1
    for i, one in enumerate(found):
        for j, other in enumerate(found[:i]):
            assert (ids[i] == ids[j]) == same(one, other), (one, other)


FORMATS = ("x.txt", "x.csv", "x.tsv", "x.jsonl", "x.txt.gz", "x.jsonl.gz")
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
keys = st.sampled_from(["anchor", "positive", "negative", "text", "query", "pos", "x", ""])
json_lines = st.lists(st.dictionaries(keys, values, max_size=4) | values, max_size=4).map(
    lambda records: "\n".join(json.dumps(record) for record in records)
)
fields = st.lists(st.text(max_size=5) | keys, max_size=4)
separated = st.lists(fields, max_size=4).flatmap(
    lambda rows: st.sampled_from([",", "\t", '"', "\r"]).map(
        lambda mark: "\n".join(mark.join(row) for row in rows)
    )
)
contents = (json_lines | separated | st.text(max_size=60)).map(
    lambda text: text.encode(errors="surrogatepass")
) | st.binary(max_size=60)


@on_files
@given(st.sampled_from(FORMATS), contents, st.integers(-1, 40))
@example("x.jsonl", b'{"text": ' + b"9" * 5000 + b"}", -1)
@example("x.csv", b"text\n" + b"a" * (1 << 18), -1)
def test_any_file_gives_texts_or_an_error_that_names_it(tmp_path, name, content, damage):
    if name.endswith(".gz"):
        content = gzip.compress(content)
        if damage >= 0:
            content = content[:damage] + b"\x00" + content[damage + 1 :]
    path: Path = tmp_path / name
    path.write_bytes(content)
    examples = read(Source(path=name), tmp_path)
    try:
        found = list(examples)
    except SimjaxError as error:
        assert str(path) in str(error)
        return
    for entry in found:
        assert isinstance(entry, Example)
        for text in (entry.anchor, *entry.positives, *entry.negatives):
            assert text == text.strip() != "" and text.encode()
    assert examples.skipped >= 0
