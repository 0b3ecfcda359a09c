"""Classes and scores from every kind of source, within what is declared."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from simjax.data import builtin
from simjax.data.sources import Example, Source, read
from simjax.data.token_store import build
from simjax.data.tokenizer import train_wordpiece
from simjax.errors import SimjaxError, UsageError

ROWS = [("q", "p", "yes", 0.0), ("r", "s", "no", 5.0), ("t", "u", None, None), ("v", "w", "no", 2)]
NAMED = {"anchor": "a", "positives": ("b",), "label": "kind", "score": "score"}
DECLARED = {"classes": ("no", "maybe", "yes"), "score_range": (0.0, 5.0)}
FIFTH = {
    "csv": "a.csv:6",
    "tsv": "a.tsv:6",
    "jsonl": "a.jsonl:5",
    "parquet": "a.parquet: row 5",
}


def write(folder, format_, rows):
    path = folder / f"a.{format_}"
    records = [dict(zip(("a", "b", "kind", "score"), row, strict=True)) for row in rows]
    if format_ == "parquet":
        floats = [None if row[3] is None else float(row[3]) for row in rows]
        columns = {name: [record[name] for record in records] for name in ("a", "b", "kind")}
        parquet.write_table(pa.table(columns | {"score": floats}), path)
    elif format_ == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        lines = [("a", "b", "kind", "score")]
        lines += [tuple("" if field is None else str(field) for field in row) for row in rows]
        path.write_text("".join(("," if format_ == "csv" else "\t").join(x) + "\n" for x in lines))
    return Source(path=path.name, **NAMED, **DECLARED)


@pytest.mark.parametrize("format_", FIFTH)
def test_what_was_declared_is_read(tmp_path, format_):
    source = write(tmp_path, format_, ROWS)
    assert list(read(source, tmp_path)) == [
        Example(a, (b,), label=kind, score=score) for a, b, kind, score in ROWS
    ]


@pytest.mark.parametrize("format_", FIFTH)
@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("x", "y", "No", 1), "the label 'kind' is 'No', which is none of data.source.classes (no"),
        (("x", "y", "no", 5.5), "the score 'score' is 5.5, out of data.source.score_range, which"),
        (("x", "y", "no", -1), "the score 'score' is -1, out of data.source.score_range, which is"),
    ],
)
def test_anything_else_is_refused_where_it_stands(tmp_path, format_, row, message):
    source = write(tmp_path, format_, [*ROWS, row])
    with pytest.raises(SimjaxError) as caught:
        list(read(source, tmp_path))
    said = str(caught.value).replace(f"{tmp_path}/", "")
    assert said.startswith(f"{FIFTH[format_]}: {message}")


def test_scores_are_finite_in_float32(tmp_path):
    (tmp_path / "a.tsv").write_text("a\tb\tscore\nx\ty\t-3.4e38\nx\ty\t3.5e38\n")
    source = Source(path="a.tsv", anchor="a", positives=("b",), score="score")
    with pytest.raises(SimjaxError, match=r"a\.tsv:3: the score 'score' is no finite number"):
        list(read(source, tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ("a",)}, "has classes but no label"),
        ({"score_range": (0.0, 1.0)}, "has score_range but no score"),
        ({"label": "c", "classes": ("a", "a")}, "one is named twice"),
        ({"label": "c", "classes": ("a", "b ")}, "one is blank, or padded"),
        ({"label": "c", "classes": ("",)}, "one is blank, or padded"),
        ({"label_above": 2.5}, "has label_above but no score"),
        ({"label": "c", "score": "d", "label_above": 2.5}, "has label and label_above"),
        ({"score": "c", "label_above": 2.5, "classes": ("0", "1")}, "has classes but no label"),
        ({"score": "c", "score_range": (1.0, 1.0)}, "score_range is 1 to 1"),
        ({"score": "c", "score_range": (0.0, float("inf"))}, "score_range is 0 to inf"),
        ({"score": "c", "score_range": (float("nan"), 1.0)}, "score_range is nan to 1"),
    ],
)
def test_declarations_that_make_no_sense(options, message):
    with pytest.raises(UsageError, match=message):
        Source(path="a.tsv", **options)


def test_a_store_numbers_declared_classes_as_declared(tmp_path):
    tokenizer = train_wordpiece(["a b p q r s t u v w"], 60)

    def store(**options):
        source = Source(path="a.csv", **NAMED, **options)
        return build(source, tmp_path, tokenizer, max_length=8, cache=tmp_path / "cache")

    write(tmp_path, "csv", ROWS)
    declared, plain = store(**DECLARED), store()
    assert declared.label_names == ("no", "maybe", "yes")
    assert declared.labels.tolist() == [2, 0, -1, 0]
    assert plain.label_names == ("yes", "no") and plain.labels.tolist() == [0, 1, -1, 1]
    np.testing.assert_array_equal(declared.scores, np.float32([0, 5, np.nan, 2]))
    # A store that was made without the check is not taken for one that passed it.
    with pytest.raises(SimjaxError, match=r"a\.csv:3: the score 'score' is 5, out of"):
        store(score_range=(0.0, 4.0))


def test_scores_are_cut_into_classes(tmp_path):
    tokenizer = train_wordpiece(["a b p q r s t u v w"], 60)
    write(tmp_path, "csv", [*ROWS, ("x", "y", "no", 2.1)])

    def store(above):
        source = Source(
            path="a.csv", anchor="a", positives=("b",), score="score", label_above=above
        )
        return build(source, tmp_path, tokenizer, max_length=8, cache=tmp_path / "cache")

    # Above, not at it; an example without a score has no class.
    assert store(2.0).labels.tolist() == [0, 1, -1, 0, 1]
    assert store(-1.0).labels.tolist() == [1, 1, -1, 1, 1]
    assert store(2.0).label_names == ("0", "1")
    np.testing.assert_array_equal(store(2.0).scores, np.float32([0, 5, np.nan, 2, 2.1]))


def test_the_built_in_corpus_labels_pairs_by_module():
    examples = list(read(Source(format="builtin", path="pairs", label="module"), None))
    plain = list(read(Source(format="builtin", path="pairs"), None))
    assert [(e.anchor, e.positives) for e in examples] == [(e.anchor, e.positives) for e in plain]
    entries = builtin.corpus().pairs
    for entry, example in zip(entries, examples, strict=True):
        assert example.label == ("topic" if ":" in entry.name else entry.name.split(".")[0])
    assert {"topic", "shutil", "argparse"} <= {example.label for example in examples}
    named = Source(format="builtin", path="pairs", label="module", classes=("shutil",))
    with pytest.raises(SimjaxError, match=r"the built-in corpus: .*: the label 'module' is"):
        list(read(named, None))
    for path, label in (("sentences", "module"), ("pairs", "kind")):
        with pytest.raises(UsageError, match="only pairs have a label, which is module"):
            list(read(Source(format="builtin", path=path, label=label), None))
