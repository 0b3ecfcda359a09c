"""Data files that `simjax train` and `simjax evaluate` refuse, with the line of the fault."""

from __future__ import annotations

import gzip
from pathlib import Path

from tests.cli.malformed.recipes import GOOD
from tests.cli.malformed.rows import Row, write

PAIRS = "anchor,positive\na,b\n"


def data(
    name: str,
    file: str,
    content: str | bytes,
    *says: str,
    path: str = "",
    keys: str = "",
    status: int = 1,
) -> Row:
    """A file that a recipe trains on."""

    def make(folder: Path) -> list[str]:
        write(folder / file, content)
        text = f"{GOOD}data: {{root: '{folder}', source: {{path: '{path or file}'{keys}}}}}\n"
        return ["train", str(write(folder / "recipe.yaml", text)), f"--output={folder / 'run'}"]

    return Row(f"{file.partition('.')[2]}: {name}", make, says, status)


def sts(name: str, content: str | bytes, *says: str) -> Row:
    """A similarity set."""

    def make(folder: Path) -> list[str]:
        return ["evaluate", str(folder / "model"), "--sts", str(write(folder / "sts.tsv", content))]

    return Row(f"similarity set: {name}", make, says)


HEADER = "sentence1\tsentence2\tscore\n"
GRADED = HEADER + "a\tb\t1\n"


def labelled(name: str, content: str, *says: str, test: str | None = None) -> Row:
    """A classification set, perhaps with a file of test examples."""

    def make(folder: Path) -> list[str]:
        paths = [write(folder / "classes.tsv", content)]
        paths += [write(folder / "test.tsv", test)] if test is not None else []
        named = ":".join(map(str, paths))
        return ["evaluate", str(folder / "model"), "--classification", named]

    return Row(f"classification set: {name}", make, says)


CLASSES = "sentence\tlabel\na\tx\nb\tx\nc\ty\nd\ty\n"
SCORED = "a\tb\tkind\tscore\nq\tp\tyes\t5\n"
KEYS = ", anchor: a, positives: [b], label: kind, classes: ['no', 'yes'], score: score"


def beir(name: str, file: str, content: str | bytes, *says: str) -> Row:
    """A retrieval set, one of whose files is of that content."""

    def make(folder: Path) -> list[str]:
        write(folder / "corpus.jsonl", '{"_id": "d", "text": "x"}\n')
        write(folder / "queries.jsonl", '{"_id": "q", "text": "x"}\n')
        write(folder / "qrels.tsv", "query-id\tcorpus-id\tscore\nq\td\t1\n")
        write(folder / file, content)
        return ["evaluate", str(folder / "model"), "--retrieval", str(folder)]

    return Row(f"retrieval set: {name}", make, says)


ROWS = [
    data("absent", "other.csv", PAIRS, "{}/nowhere.csv: no such file", path="nowhere.csv"),
    data("empty", "x.txt", "", "{}/x.txt: the file is empty"),
    data("not UTF-8", "x.txt", b"one\ntw\xff\n", "{}/x.txt:2: not UTF-8: byte 0xff at byte 3"),
    data("UTF-16", "x.txt", "text\n".encode("utf-16"), "{}/x.txt:1: not UTF-8: byte 0xff"),
    data("a surrogate in UTF-8", "x.txt", b"a\xed\xa0\x80\n", "{}/x.txt:1: not UTF-8: byte 0xed"),
    data(
        "only white space",
        "x.txt",
        " \n\t\n\u3000\n",
        "no text to train a tokenizer on; data.source.path",
    ),
    data("an unknown ending", "x.xml", "<a/>", "{}/x.xml: the format does not show"),
    data(
        "a column that is not there", "x.txt", "a\n", "x.txt:1: no column 'q'", keys=", anchor: q"
    ),
    data("empty", "x.csv", "", "{}/x.csv: the file is empty"),
    data("a header alone", "x.csv", "anchor,positive\n", "no text to train a tokenizer on; data."),
    data("no usual column", "x.csv", "a,b\n1,2\n", "{}/x.csv:1: no columns with usual names"),
    data(
        "a header of a megabyte", "x.csv", "a," * (1 << 19), "{}/x.csv:1: no columns with", " ... "
    ),
    data("a header that clears the screen", "x.csv", "\x1b[2J\n", "found: \\x1b[2J; set data."),
    data("a header of lone signs", "x.tsv", "\u202e\x0c\u2028b\n", "{}/x.tsv:1: no columns with"),
    data("a blank header", "x.csv", "\n1,2\n", "{}/x.csv:1: the first line is blank"),
    data("a column twice", "x.csv", "text,text\na,b\n", "{}/x.csv:1: there are several columns"),
    data("too few fields", "x.csv", PAIRS + "c\n", "{}/x.csv:3: 1 fields where the header has 2"),
    data("too many fields", "x.csv", PAIRS + "c,d,e\n", "{}/x.csv:3: 3 fields where the header"),
    data("an unclosed quote", "x.csv", PAIRS + '"c,d\n', "{}/x.csv:3: malformed CSV"),
    data("a quote within", "x.csv", PAIRS + '"c"d,e\n', "{}/x.csv:3: malformed CSV"),
    data(
        "a field above the limit",
        "x.csv",
        PAIRS + "c" * ((1 << 24) + 1),
        "{}/x.csv:3: a field of more than 16,777,216 characters; close its quote if it is unclosed",
        "JSON Lines",
    ),
    data("NUL in a line", "x.csv", PAIRS + "c\0,d\nonly one\n", "{}/x.csv:4: 1 fields where the"),
    data("too many fields", "x.tsv", "anchor\tpositive\na\tb\tc\n", "{}/x.tsv:2: 3 fields where"),
    data("graded pairs", "x.tsv", GRADED, "{}/x.tsv:1: no columns with usual names"),
    data("empty", "x.jsonl", "\n\n", "{}/x.jsonl: the file is empty"),
    data("a torn line", "x.jsonl", '{"text": "a"}\n{"text', "{}/x.jsonl:2: malformed JSON"),
    data("a list", "x.jsonl", "[1]\n", "{}/x.jsonl:1: a JSON object is wanted, this is a list"),
    data("null", "x.jsonl", "null\n", "{}/x.jsonl:1: a JSON object is wanted, this is null"),
    data("a lost key", "x.jsonl", '{"text": "a"}\n{"b": "c"}\n', "{}/x.jsonl:2: no key 'text'"),
    data("a number for text", "x.jsonl", '{"text": 1}\n', "{}/x.jsonl:1: 'text' is not a string"),
    data("a lone surrogate", "x.jsonl", '{"text": "a\\ud800"}\n', "x.jsonl:1: ", "character 2"),
    data("a thousand brackets", "x.jsonl", "[" * 9999, "{}/x.jsonl:1: malformed JSON: nested too"),
    data("a long number", "x.jsonl", f'{{"text": {"9" * 5000}}}', "{}/x.jsonl:1: malformed JSON"),
    data(
        "a score of 400 digits",
        "x.jsonl",
        f'{{"anchor": "a", "positive": "b", "s": {"9" * 400}}}\n',
        "{}/x.jsonl:1: the score 's' is no finite number: 9999",
        keys=", score: s",
    ),
    data("no gzip", "x.txt.gz", b"plain\n", "{}/x.txt.gz:1: damaged or no gzip file"),
    data("cut off", "x.txt.gz", gzip.compress(b"word " * 9999)[:-20], "the gzip file ends early"),
    data(
        "damaged", "x.txt.gz", gzip.compress(b"a\n")[:10] + b"\xff" * 30, "{}/x.txt.gz:1: damaged"
    ),
    data("empty", "x.csv.gz", b"", "{}/x.csv.gz: the file is empty"),
    data(
        "columns without the anchor",
        "x.csv",
        PAIRS,
        "data.source.anchor",
        keys=", positives: [b]",
        status=2,
    ),
    data("a pattern without files", "x.csv", PAIRS, "no file matches", path="*.tsv"),
    data(
        "an unknown class",
        "x.tsv",
        SCORED + "r\ts\tyse\t1\n",
        "{}/x.tsv:3: the label 'kind' is 'yse', which is none of data.source.classes (no, yes)",
        keys=KEYS,
    ),
    data(
        "a score out of range",
        "x.tsv",
        SCORED + "r\ts\tno\t5.5\n",
        "{}/x.tsv:3: the score 'score' is 5.5, out of data.source.score_range, which is 0 to 5",
        keys=f"{KEYS}, score_range: [0, 5]",
    ),
    data(
        "a range without a column",
        "x.tsv",
        SCORED,
        "has score_range but no score",
        keys=", anchor: a, score_range: [0, 5]",
        status=2,
    ),
    labelled("empty", "", "{}/classes.tsv: 0 classes"),
    labelled("no header", "a\tx\n", "{}/classes.tsv:1: no column 'sentence' or 'text'"),
    labelled("no label", CLASSES + "e\t \n", "{}/classes.tsv:6: no label"),
    labelled("a lost field", CLASSES + "e\n", "{}/classes.tsv:6: 1 tab-separated fields, the"),
    labelled("a class of one", CLASSES + "e\tz\n", "{}/classes.tsv: class 'z' has 1 example"),
    labelled(
        "a class that training lacks",
        CLASSES,
        "{}/test.tsv:2: no training example has the label 'z'",
        test="sentence\tlabel\na\tz\n",
    ),
    sts("empty", "", "{}/sts.tsv"),
    sts("no header", "a\tb\t1\nc\td\t2\n", "{}/sts.tsv:1: no column 'sentence1'"),
    sts(
        "a lost field", GRADED + "c\td\n", "{}/sts.tsv:3: 2 tab-separated fields, the header has 3"
    ),
    sts(
        "a word for a score", GRADED + "c\td\thigh\n", "{}/sts.tsv:3: score 'high' is not a finite"
    ),
    sts("a score that is no number", GRADED + "c\td\tnan\n", "{}/sts.tsv:3: score 'nan' is not a"),
    sts("one pair", GRADED, "{}/sts.tsv: 1 sentence pairs; a correlation needs at least 2"),
    sts("equal scores", GRADED + "c\td\t1\n", "{}/sts.tsv: every score is 1"),
    sts("not UTF-8", GRADED.encode() + b"\xff\td\t2\n", "{}/sts.tsv:3: not valid UTF-8"),
    beir("a torn line", "corpus.jsonl", '{"_id": ', "{}/corpus.jsonl:1: malformed JSON"),
    beir("nested too deeply", "corpus.jsonl", "[" * 9999, "{}/corpus.jsonl:1: malformed JSON"),
    beir("no text", "queries.jsonl", '{"_id": "q"}\n', "{}/queries.jsonl:1: no 'text'"),
    beir("an id twice", "corpus.jsonl", '{"_id": "d", "text": "x"}\n' * 2, "'d' occurs twice"),
    beir("another header", "qrels.tsv", "q\td\t1\n", "{}/qrels.tsv:1: the header must be"),
    beir(
        "an unknown document", "qrels.tsv", "query-id\tcorpus-id\tscore\nq\tx\t1\n", "qrels.tsv:2"
    ),
    beir(
        "nothing relevant", "qrels.tsv", "query-id\tcorpus-id\tscore\nq\td\t0\n", "no document is"
    ),
]

SKIPPED: dict[str, tuple[str, str, int, int]] = {
    # what: file, content, examples kept, examples skipped and counted
    "blank lines": ("x.txt", "a\n\n \n\t\nb\n", 2, 3),
    "white space of Unicode": ("x.txt", "a\n\u3000\u00a0\n", 1, 1),
    "a blank line of CSV": ("x.csv", PAIRS + "\nc,d\n", 2, 1),
    "a field of a megabyte, which is read": ("x.csv", PAIRS + "c" * (1 << 20) + ",d\n", 2, 0),
    "no anchor": ("x.csv", PAIRS + ",d\n", 1, 1),
    "no positive": ("x.csv", PAIRS + "c,\n", 1, 1),
    "a field of white space": ("x.tsv", "anchor\tpositive\n \tb\nc\td\n", 1, 1),
    "null for an anchor": ("x.jsonl", '{"text": null}\n{"text": "a"}\n', 1, 1),
    "no positive in a list": ("x.jsonl", '{"query": "a", "pos": []}\n', 0, 1),
    "positives of white space": ("x.jsonl", '{"query": "a", "pos": [" ", ""]}\n', 0, 1),
    "an empty negative, which is left out": (
        "x.jsonl",
        '{"query": "a", "pos": "b", "neg": [""]}\n',
        1,
        0,
    ),
    "control characters, which are text": ("x.txt", "\x00\n\x1b[0m\n\x7f\n", 3, 0),
    "a byte-order mark, which is none": ("x.txt", "\ufeff\nb\n", 1, 1),
}
"""Data files whose faulty records are skipped and counted."""
