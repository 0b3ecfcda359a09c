"""`simjax data check` on folders that hold some of the sets, right and wrong."""

import gzip
import json
from pathlib import Path

import pytest

from simjax.cli.data import Finding, check, summary
from simjax.cli.datasets import DATA_SETS, DataSet, File, count_rows
from simjax.errors import SimjaxError

STS13 = {"FNWN": 189, "OnWN": 561, "headlines": 750}


def write_sts13(root: Path) -> Path:
    folder = root / "en" / "sts13"
    folder.mkdir(parents=True)
    for name, rows in STS13.items():
        lines = ["sentence1\tsentence2\tscore", *(f'a {i}\t"b\t{i % 6}' for i in range(rows))]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_a_set_as_expected(tmp_path: Path, simjax) -> None:
    write_sts13(tmp_path)
    status, out, err = simjax("data", "check", tmp_path, "--json", tmp_path / "found" / "x.json")
    assert (status, err) == (0, "")
    assert "1,500" in out
    found = json.loads((tmp_path / "found" / "x.json").read_text())
    assert found["sts13"]["status"] == "ok"
    assert found["sts13"]["files"]["en/sts13/OnWN.tsv"]["rows"] == 561
    assert found["sts12"]["status"] == "missing"
    assert {name for name, entry in found.items() if entry["status"] == "ok"} == {"sts13"}


def test_gzip_will_do(tmp_path: Path, simjax) -> None:
    folder = write_sts13(tmp_path)
    plain = folder / "OnWN.tsv"
    (folder / "OnWN.tsv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    assert simjax("data", "check", tmp_path).status == 0


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("sentence1\tsentence2\tscore\na\tb\t1\n", "OnWN.tsv: 1 rows, expected 561"),
        ("sentence1\tsentence2\na\tb\n", "OnWN.tsv:1: no column 'score'"),
        ("sentence1\tsentence2\tscore\na\tb\t1\na\tb\n", "OnWN.tsv:3: 2 fields, the header has 3"),
        ("", "OnWN.tsv: is empty"),
        (b"sentence1\tsentence2\tscore\n\xff\tb\t1\n", "OnWN.tsv:2: not valid UTF-8"),
    ],
)
def test_a_wrong_file_fails_and_is_named(tmp_path: Path, simjax, content, names) -> None:
    folder = write_sts13(tmp_path)
    data = content if isinstance(content, bytes) else content.encode()
    (folder / "OnWN.tsv").write_bytes(data)
    status, out, err = simjax("data", "check", tmp_path)
    assert status == 1
    assert names in out
    assert err == f"simjax: {tmp_path}: 1 file not as expected\n"


def test_part_of_a_set_is_missing(tmp_path: Path, simjax) -> None:
    (write_sts13(tmp_path) / "OnWN.tsv").unlink()
    status, out, _ = simjax("data", "check", tmp_path)
    assert status == 0
    assert "en/sts13/OnWN.tsv: missing" in out
    status, _, err = simjax("data", "check", tmp_path, "--require", "sts13")
    assert (status, err) == (1, f"simjax: {tmp_path}: sts13 missing\n")


def test_folders_that_hold_nothing(tmp_path: Path, simjax, monkeypatch) -> None:
    assert "none of the known sets" in simjax("data", "check", tmp_path).err
    assert "no such folder" in simjax("data", "check", tmp_path / "x").err
    monkeypatch.delenv("SIMJAX_DATA", raising=False)
    status, _, err = simjax("data", "check")
    assert status == 2 and "SIMJAX_DATA" in err


def test_the_variable_stands_in_for_the_folder(tmp_path: Path, simjax, monkeypatch) -> None:
    write_sts13(tmp_path)
    monkeypatch.setenv("SIMJAX_DATA", str(tmp_path))
    assert simjax("data", "check").status == 0


def test_csv_rows_may_span_lines(tmp_path: Path) -> None:
    path = tmp_path / "triples.csv"
    path.write_text('sent0,sent1,hard_neg\n"a\nb","c, ""d""",e\nf,g,h\n', encoding="utf-8")
    file = File("triples.csv", (2,), ("sent0", "sent1", "hard_neg"))
    assert count_rows(path, file) == 2
    path.write_text(f"sent0,sent1,hard_neg\na,b,{'c' * (1 << 20)}\n\nd,e,f\n", encoding="utf-8")
    assert count_rows(path, file) == 2
    path.write_text('sent0,sent1,hard_neg\na,"b,c\n', encoding="utf-8")
    with pytest.raises(SimjaxError, match=r"triples\.csv:2: malformed CSV"):
        count_rows(path, file)


def test_json_lines_are_parsed(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"_id": "1"}\n\n{"_id": "2"}\n', encoding="utf-8")
    assert count_rows(path, File("corpus.jsonl", (2,))) == 2
    path.write_text('{"_id": "1"}\n[1]\n', encoding="utf-8")
    with pytest.raises(SimjaxError, match=r"corpus\.jsonl:2: not a JSON object"):
        count_rows(path, File("corpus.jsonl", (2,)))
    path.write_text('{"_id": "1"}\n{"_id"\n', encoding="utf-8")
    with pytest.raises(SimjaxError, match=r"corpus\.jsonl:2: malformed JSON"):
        count_rows(path, File("corpus.jsonl", (2,)))


def test_any_of_the_known_counts_is_right(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a\nb\n", encoding="utf-8")
    assert summary(check(tmp_path, DataSet("x", "", "", (File("x.txt", (1, 2)),)))) == "ok"
    assert summary(check(tmp_path, DataSet("x", "", "", (File("x.txt", (1, 3)),)))) == "wrong"


def test_a_wrong_file_counts_more_than_a_missing_one() -> None:
    found = {"a": Finding("ok"), "b": Finding("missing"), "c": Finding("wrong")}
    assert summary(found) == "wrong"
    assert summary({"a": found["a"], "b": found["b"]}) == "missing"


@pytest.mark.data
def test_the_real_folder_is_as_expected(data_root: Path, simjax) -> None:
    names = [data_set.name for data_set in DATA_SETS]
    assert simjax("data", "check", data_root, "--require", *names).status == 0
