import csv
import gzip
import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simjax.data.sources import Example, Source, files, read
from simjax.errors import SimjaxError, UsageError

# Whatever a line of a text file may hold; surrogates cannot be written, line ends end a line.
line = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20)
shown = line.filter(lambda text: text.strip())
on_files = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def examples_of(folder, name, content, **options):
    content = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(content)
    return list(read(Source(path=name, **options), folder))


def refuse(folder, name, content, **options):
    with pytest.raises(SimjaxError) as caught:
        examples_of(folder, name, content, **options)
    return str(caught.value).replace(f"{folder}/", "")


# What is read


@on_files
@given(st.lists(shown, min_size=1))
def test_text_files_give_their_lines(tmp_path, texts):
    found = examples_of(tmp_path, "a.txt", "\n".join(texts) + "\n")
    assert found == [Example(text.strip()) for text in texts]


@on_files
@given(st.lists(st.tuples(*[st.text(st.characters(codec="utf-8"), max_size=20)] * 2)))
def test_csv_fields_come_back_as_written(tmp_path, rows):
    rows = [row for row in rows if row[0].strip() and row[1].strip()]
    rows = [tuple(field.replace("\r", " ") for field in row) for row in [('é, \n"b"', "x"), *rows]]
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([("sent0", "sent1"), *rows])
    found = examples_of(tmp_path, "a.csv", buffer.getvalue())
    assert found == [Example(a.strip(), (b.strip(),)) for a, b in rows]


@on_files
@given(st.lists(st.tuples(*[shown.map(lambda text: text.replace("\t", " "))] * 2), min_size=1))
def test_tsv_fields_are_not_quoted(tmp_path, rows):
    rows = [('"a', 'b"'), *((a, b) for a, b in rows if a.strip() and b.strip())]
    content = "".join(f"{a}\t{b}\r\n" for a, b in [("anchor", "positive"), *rows])
    found = examples_of(tmp_path, "a.tsv", content)
    assert found == [Example(a.strip(), (b.strip(),)) for a, b in rows]


def test_json_lists_give_several_texts(tmp_path):
    records = [
        {"query": "q", "pos": ["a", "b"], "neg": ["c", " ", "d"], "other": 1},
        {"query": "r", "pos": "e", "neg": None},
        {"query": "s", "pos": ["f"]},
    ]
    content = "\n".join(json.dumps(record) for record in records)
    assert examples_of(tmp_path, "a.jsonl", content) == [
        Example("q", ("a", "b"), ("c", "d")),
        Example("r", ("e",)),
        Example("s", ("f",)),
    ]


def test_gzip_files_patterns_and_byte_order_marks(tmp_path):
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbftext,n\nfirst,1\n"))
    (tmp_path / "c.csv").write_bytes(b"n,text\r\n2,second\r\n")
    source = Source(path="*.csv*")
    assert list(read(source, tmp_path)) == [Example("first"), Example("second")]
    assert [path.name for path, _ in files(source, tmp_path)] == ["b.csv.gz", "c.csv"]


def test_a_named_file_may_be_plain_or_gzip(tmp_path):
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"text\nzipped\n"))
    (tmp_path / "c.csv").write_bytes(b"text\nplain\n")
    assert list(read(Source(path="b.csv"), tmp_path)) == [Example("zipped")]
    assert list(read(Source(path="c.csv.gz"), tmp_path)) == [Example("plain")]
    # Both: the one that is named, and only that.
    (tmp_path / "b.csv").write_bytes(b"text\nplain\n")
    assert list(read(Source(path="b.csv"), tmp_path)) == [Example("plain")]
    assert list(read(Source(path="b.csv.gz"), tmp_path)) == [Example("zipped")]


def test_absolute_paths_and_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("one\n")
    assert list(read(Source(path=str(tmp_path / "a.txt")), tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path)
    assert list(read(Source(path="a.txt"), None))


def test_empty_texts_are_skipped_and_counted(tmp_path):
    (tmp_path / "a.tsv").write_text("anchor\tpositive\tnegative\n\t x\ty\na\t \tb\n\nc\td\t\n")
    examples = read(Source(path="a.tsv"), tmp_path)
    assert list(examples) == [Example("c", ("d",))]
    assert examples.skipped == 3
    assert list(examples) == [Example("c", ("d",))]
    assert examples.skipped == 3


def test_labels_are_read(tmp_path):
    options = {"anchor": "a", "positives": ("b",), "label": "c"}
    found = examples_of(tmp_path, "a.csv", "c,b,a\nx,1,2\n,3,4\n", **options)
    assert found == [Example("2", ("1",), label="x"), Example("4", ("3",))]
    found = examples_of(tmp_path, "a.jsonl", '{"a":"2","b":"1","c":0}', **options)
    assert found == [Example("2", ("1",), label="0")]


def test_scores_are_read(tmp_path):
    options = {"anchor": "a", "positives": ("b",), "score": "c"}
    found = examples_of(tmp_path, "a.csv", "c,b,a\n 0.5,1,2\n,3,4\n", **options)
    assert found == [Example("2", ("1",), score=0.5), Example("4", ("3",))]
    found = examples_of(tmp_path, "a.jsonl", '{"a":"2","b":"1","c":3}', **options)
    assert found == [Example("2", ("1",), score=3.0)]
    for wrong in ("high", "true", '"nan"', "1e999", "[1]"):
        value = '"high"' if wrong == "high" else wrong
        said = refuse(tmp_path, "a.jsonl", f'{{"a":"2","b":"1","c":{value}}}', **options)
        assert said.startswith("a.jsonl:1: the score 'c' is no finite number: ")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("positive_2,anchor,positive,positive_10,negative", ("1", ("2", "0", "3"), ("4",))),
        ("hard_neg,sent1,sent0", ("2", ("1",), ("0",))),
        ("sentence2,sentence1", ("1", ("0",), ())),
        ("id,query,positive,negative_2,negative_1", ("1", ("2",), ("4", "3"))),
        ("label,text", ("1", (), ())),
        ("sentence,label", ("0", (), ())),
    ],
)
def test_usual_columns_are_found(tmp_path, header, expected):
    fields = ",".join(str(index) for index in range(header.count(",") + 1))
    assert examples_of(tmp_path, "a.csv", f"{header}\n{fields}\n") == [Example(*expected)]


# What is refused


def test_a_missing_file_names_what_is_there(tmp_path):
    (tmp_path / "nli").mkdir()
    (tmp_path / "nli" / "train.csv").write_text("text\na\n")
    for path, said in {
        "nli/trian.csv": f"nli exists, trian.csv is not in it; did you mean {tmp_path}/nli/train",
        "nil/train.csv": f"{tmp_path} exists, nil is not in it; did you mean {tmp_path}/nli?",
        "nli/*.tsv": "no file matches this pattern",
        "nli": "this is a folder",
    }.items():
        with pytest.raises(SimjaxError) as caught:
            list(read(Source(path=path), tmp_path))
        assert said in str(caught.value)


# Their bytes name the tests, which must be the same in every test process: no time in them.
CUT_GZIP = gzip.compress(b"word " * 9999, mtime=0)[:-20]
DAMAGED_GZIP = gzip.compress(b"a\n", mtime=0)[:10] + b"\xff" * 30


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "x,y\n1,2\n",
            "a.csv:1: no columns with usual names (anchor, sent0, ",
        ),
        ("a.tsv", "sentence1\tsentence2\tscore\n", "a.tsv:1: no columns with usual names"),
        ("a.csv", "sent0,sent1\na,b\nc\n", "a.csv:3: 1 fields where the header has 2"),
        ("a.csv", 'sent0,sent1\na,b\n"c,d\ne,f\n', "a.csv:3: malformed CSV: unexpected end"),
        ("a.csv", 'sent0,sent1\n"a\nb",c\n"c"d,e\n', "a.csv:4: malformed CSV: ',' expected"),
        ("a.csv", "text,text\na,b\n", "a.csv:1: there are several columns named 'text'"),
        ("a.tsv", "\t\na\tb\n", "a.tsv:1: the first line is blank"),
        ("a.tsv", "anchor\tpositive\na\tb\tc\n", "a.tsv:2: 3 fields where the header has 2"),
        ("a.txt", b"fine\n\xc3\xa9 \xff\n", "a.txt:2: not UTF-8: byte 0xff at byte 4 of the line"),
        ("a.csv", b"text\na\n\xff\n", "a.csv:3: not UTF-8: byte 0xff at byte 1 of the line"),
        ("a.txt", "", "a.txt: the file is empty"),
        ("a.csv", "", "a.csv: the file is empty"),
        ("a.jsonl", "\n\n", "a.jsonl: the file is empty"),
        ("a.jsonl", '{"text":"a"}\n{"text":\n', "a.jsonl:2: malformed JSON: Expecting value"),
        ("a.jsonl", '{"text":"a"}\n{"b":"c"}\n', "a.jsonl:2: no key 'text'; found: b"),
        (
            "a.jsonl",
            '{"text":"a"}\n\n["b"]\n',
            "a.jsonl:3: a JSON object is wanted, this is a list",
        ),
        ("a.jsonl", '{"text":3}\n', "a.jsonl:1: 'text' is not a string: 3"),
        ("a.jsonl", '{"text":["a"]}\n', "a.jsonl:1: 'text' is not a string: ['a']"),
        ("a.jsonl", '{"query":"a","pos":[1]}', "a.jsonl:1: 'pos' is not a string or a list of"),
        ("a.jsonl", '{"text":"\\ud800"}', "a.jsonl:1: 'text' is not Unicode text: lone surrogate"),
        ("a.jsonl", "[" * 100_000, "a.jsonl:1: malformed JSON: nested too deeply"),
        ("a.xml", "<a/>", "a.xml: the format does not show in the file's name"),
        ("a.txt.gz", CUT_GZIP, "the gzip file ends early"),
        ("a.txt.gz", b"plain\n", "a.txt.gz:1: damaged or no gzip file"),
        ("a.txt.gz", DAMAGED_GZIP, "a.txt.gz:1: damaged or no gzip"),
    ],
)
def test_faults_are_reported_where_they_are(tmp_path, name, content, message):
    said = refuse(tmp_path, name, content)
    assert message in said
    assert "\n" not in said


def test_columns_that_are_named_must_be_there(tmp_path):
    content = "a,b\n1,2\n"
    said = refuse(tmp_path, "a.csv", content, anchor="a", negatives=("c",))
    assert said == "a.csv:1: no column 'c'; found: a, b"
    assert refuse(tmp_path, "a.csv", content, anchor="A").startswith("a.csv:1: no column 'A'")
    assert refuse(tmp_path, "a.txt", "a", anchor="b") == "a.txt:1: no column 'b'; found: text"
    assert "named twice" in refuse(tmp_path, "a.csv", content, anchor="a", positives=("a",))
    assert "anchor is not set" in refuse(tmp_path, "a.csv", content, positives=("a",))


def test_json_objects_may_lack_what_is_optional_but_not_all_of_them(tmp_path):
    options = {"anchor": "a", "negatives": ("n",), "label": "c"}
    content = '{"a":"1"}\n{"a":"2","n":["3"],"c":true}\n'
    found = examples_of(tmp_path, "a.jsonl", content, **options)
    assert found == [Example("1"), Example("2", (), ("3",), "True")]
    said = refuse(tmp_path, "a.jsonl", content, anchor="a", negatives=("m",))
    assert said == "a.jsonl: no record has 'm'"


def test_files_of_a_pattern_must_have_the_same_columns(tmp_path):
    (tmp_path / "1.csv").write_text("anchor,positive\na,b\n")
    (tmp_path / "2.csv").write_text("sent0,sent1\na,b\n")
    with pytest.raises(SimjaxError, match=r"2\.csv:1: no column 'anchor'; found: sent0, sent1"):
        list(read(Source(path="*.csv"), tmp_path))


@pytest.mark.parametrize(
    "source",
    [
        Source(),
        Source(format="builtin", path="paragraphs"),
        Source(format="builtin", path="pairs", anchor="title"),
    ],
)
def test_a_source_that_says_nothing_readable_is_a_usage_error(source):
    with pytest.raises(UsageError):
        list(read(source, None))
