import datetime
import os

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from simjax.data import arrow
from simjax.data.sources import Example, Source, read
from simjax.errors import SimjaxError

text = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda text: text.strip())


def write(path, columns, **options):
    parquet.write_table(
        columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options
    )


def refuse(folder, **options):
    with pytest.raises(SimjaxError) as caught:
        list(read(Source(path="a.parquet", **options), folder))
    said = str(caught.value).replace(f"{folder}/", "")
    assert "\n" not in said
    return said


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(text, st.lists(text, min_size=1), text | st.none()), min_size=1))
def test_rows_come_back_as_written(tmp_path, rows):
    """However many row groups they lie in; lists give several texts, nulls none."""
    anchors, positives, negatives = zip(*rows, strict=True)
    columns = {"n": range(len(rows)), "negative": negatives, "query": anchors, "pos": positives}
    table = pa.table({name: list(values) for name, values in columns.items()})
    if table["negative"].type == pa.null():
        table = table.set_column(1, "negative", table["negative"].cast(pa.string()))
    write(tmp_path / "a.parquet", table, row_group_size=3)
    assert list(read(Source(path="a.parquet"), tmp_path)) == [
        Example(
            anchor.strip(),
            tuple(map(str.strip, positive)),
            () if negative is None else (negative.strip(),),
        )
        for anchor, positive, negative in rows
    ]


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.dictionary(pa.int32(), pa.string()),
    ],
    ids=str,
)
def test_every_kind_of_text_is_read(tmp_path, kind):
    values = pa.array(["é", None, "  ", "b"], pa.string())
    values = values.cast(kind) if kind != pa.string_view() else pa.array(values.to_pylist(), kind)
    write(tmp_path / "a.parquet", {"text": values})
    examples = read(Source(path="a.parquet"), tmp_path)
    assert list(examples) == [Example("é"), Example("b")]
    assert examples.skipped == 2


def test_several_files_labels_and_scores(tmp_path):
    first = {"s": [0.5, None], "b": [["x", "y"], ["z"]], "a": ["1", "2"], "c": [True, None]}
    write(tmp_path / "1.parquet", first)
    write(tmp_path / "2.parquet", {"a": ["3"], "b": [["w"]], "c": [False], "s": [2.0]})
    source = Source(path="*.parquet", anchor="a", positives=("b",), label="c", score="s")
    assert list(read(source, tmp_path)) == [
        Example("1", ("x", "y"), label="True", score=0.5),
        Example("2", ("z",)),
        Example("3", ("w",), label="False", score=2.0),
    ]


def test_one_row_group_is_held_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "ROWS", 4)
    write(tmp_path / "a.parquet", {"text": [f"t{i}" for i in range(30)]}, row_group_size=10)
    sizes = []
    values = arrow._values
    monkeypatch.setattr(
        arrow, "_values", lambda column: sizes.append(len(column)) or values(column)
    )
    examples = iter(read(Source(path="a.parquet"), tmp_path))
    next(examples)
    assert sizes == [4]
    assert len(list(examples)) == 29
    assert max(sizes) <= 4 and sum(sizes) == 30


def test_a_name_without_the_ending_needs_the_format(tmp_path):
    write(tmp_path / "a.pq", {"text": ["one"]})
    with pytest.raises(SimjaxError, match=r"a\.pq: the format does not show.*\.parquet"):
        list(read(Source(path="a.pq"), tmp_path))
    assert list(read(Source(path="a.pq", format="parquet"), tmp_path)) == [Example("one")]


# What is refused


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"text\nnot a table\n" * 9, b"PAR1" + b"\0" * 99]
)
def test_other_files_are_no_parquet(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    assert refuse(tmp_path).startswith("a.parquet: not a Parquet file, or a damaged one: ")


def test_a_damaged_page_is_placed_after_the_last_good_row(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "ROWS", 500)
    path = tmp_path / "a.parquet"
    rows = [f"text {i} " + os.urandom(20).hex() for i in range(2000)]
    write(path, {"text": rows}, row_group_size=1000, compression="snappy", use_dictionary=False)
    meta = parquet.ParquetFile(path).metadata
    begin = meta.row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[begin : begin + 400] = b"\xff" * 400
    path.write_bytes(content)
    said = refuse(tmp_path)
    assert (
        said.startswith("a.parquet: damaged somewhere after row 1000: ")
        and "fetch it again" in said
    )


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"x": ["a"], "y": ["b"]}, {}, "a.parquet: no columns with usual names (anchor, "),
        ({"x": ["a"]}, {"anchor": "y"}, "a.parquet: no column 'y'; found: x"),
        ({"x": ["a"]}, {"anchor": "x", "score": "y"}, "a.parquet: no column 'y'; found: x"),
        ({}, {"anchor": "y"}, "a.parquet: no column 'y'; found: none"),
        ({"text": [None, 3]}, {}, "a.parquet: row 2: 'text' is not a string: 3"),
        ({"text": [["a"]]}, {}, "a.parquet: row 1: 'text' is not a string: ['a']"),
        ({"text": [{"a": "b"}]}, {}, "a.parquet: row 1: 'text' is not a string: {'a': 'b'}"),
        ({"text": [datetime.date(2020, 1, 2)]}, {}, "row 1: 'text' is not a string: 2020-01-02"),
        (
            {"query": ["a"], "pos": [[1]]},
            {},
            "a.parquet: row 1: 'pos' is not a string or a list of strings: [1]",
        ),
        ({"text": [b"a", b"b\xff"]}, {}, "row 2: 'text' is not UTF-8: byte 0xff at byte 2"),
        (
            {"text": ["a", "b"], "s": ["1", "high"]},
            {"anchor": "text", "score": "s"},
            "a.parquet: row 2: the score 's' is no finite number: high",
        ),
        (
            {"text": ["a"], "c": [[1]]},
            {"anchor": "text", "label": "c"},
            "a.parquet: row 1: the label 'c' is neither text nor number",
        ),
        (
            pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]),
            {},
            "a.parquet: there are several columns named 'text'",
        ),
    ],
)
def test_faults_are_reported_where_they_are(tmp_path, columns, options, message):
    write(tmp_path / "a.parquet", columns)
    assert message in refuse(tmp_path, **options)


@pytest.mark.parametrize("nested", [False, True])
def test_text_that_is_no_utf8_though_declared_so(tmp_path, nested):
    values = pa.array([b"a", b"b\xff"]).view(pa.string())
    if nested:
        values = pa.ListArray.from_arrays([0, 1, 2], values)
    write(tmp_path / "a.parquet", {"query": ["q", "r"], "pos": values})
    said = refuse(tmp_path)
    assert said == "a.parquet: row 2: 'pos' is not UTF-8: byte 0xff at byte 2"


def test_files_of_a_pattern_must_have_the_same_columns(tmp_path):
    write(tmp_path / "1.parquet", {"anchor": ["a"], "positive": ["b"]})
    write(tmp_path / "2.parquet", {"sent0": ["a"], "sent1": ["b"]})
    with pytest.raises(SimjaxError, match=r"2\.parquet: no column 'anchor'; found: sent0, sent1"):
        list(read(Source(path="*.parquet"), tmp_path))
