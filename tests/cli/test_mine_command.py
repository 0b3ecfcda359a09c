"""mine on a tiny model: what it writes is what training reads."""

import csv
import json
from pathlib import Path

import pytest

from simjax.data.sources import Source, read
from simjax.processes import drafts

from .conftest import TEXTS


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.csv"
    rows = [(f"about {text}", text) for text in TEXTS[:3]]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("question", "answer"), *rows])
    return path


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_mined_triples_can_be_trained_on(simjax, model_folder, pairs, tmp_path, ending) -> None:
    (tmp_path / "more.txt").write_text("\n".join([*TEXTS[3:], "", 'a "quoted", text']) + "\n")
    output = tmp_path / "new" / f"triples.{ending}"
    status, out, _ = simjax(
        "mine",
        model_folder,
        pairs,
        output,
        *("--anchor", "question", "--positives", "answer", "--corpus", tmp_path / "more.txt"),
        *("--negatives", 5, "--json", tmp_path / "x.json"),
    )
    assert status == 0
    assert out.startswith(f"{output}: 15 rows, 15 negatives for 3 anchors among 6 texts\n")
    examples = list(read(Source(path=str(output)), None))
    assert len(examples) == 15
    for example in examples:
        assert example.anchor == f"about {example.positives[0]}"
        assert len(example.negatives) == 1 and example.negatives[0] != example.positives[0]
    assert any('a "quoted", text' in example.negatives for example in examples)
    figures = json.loads((tmp_path / "x.json").read_text())
    assert (figures["rows"], figures["anchors_with_fewer"]) == (15, 0)
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_what_a_killed_one_has_left_is_removed_before_anything_else(
    simjax, model_folder, pairs, tmp_path
) -> None:
    output = tmp_path / "x.csv"
    draft = drafts.draft_of(output)
    draft.write_text("anchor,positive,neg")
    assert simjax("mine", model_folder, tmp_path / "absent.csv", output).status == 1
    assert not draft.exists()


def test_tuples_and_margins(simjax, model_folder, pairs, tmp_path) -> None:
    arguments = ("mine", model_folder, pairs, tmp_path / "x.csv", "--anchor", "question")
    arguments += ("--positives", "answer")
    status, out, _ = simjax(
        *arguments, "--negatives", 2, "--layout", "n-tuple", "--sampling", "random"
    )
    assert status == 0 and "3 rows, 6 negatives" in out
    found = list(read(Source(path=str(tmp_path / "x.csv")), None))
    assert [len(example.negatives) for example in found] == [2, 2, 2]
    status, out, _ = simjax(*arguments, "--negatives", 3, "--min_score", "-1")
    assert status == 0 and "3 anchors have fewer than 3 negatives" in out
    assert "min_score: refused 0 of 6 candidates" in out


def test_mine_refuses(simjax, model_folder, pairs, tmp_path) -> None:
    output = tmp_path / "x.csv"
    named = ("--anchor", "question", "--positives", "answer")
    cases = [
        ((pairs, tmp_path / "x.tsv", *named), 2, "must end in .csv or .jsonl"),
        ((pairs, output), 1, "no columns with usual names"),
        ((pairs, output, "--anchor", "question"), 1, "has no positives"),
        ((pairs, output, *named, "--range_min", -1), 2, "range_min -1"),
        ((tmp_path / "absent.csv", output), 1, "absent.csv: no such file"),
        ((pairs, output, *named, "--max_score", -2), 1, "no negatives were found"),
    ]
    for arguments, status, names in cases:
        outcome = simjax("mine", model_folder, *arguments)
        assert outcome.status == status, outcome
        assert names in outcome.err.splitlines()[-1]
        assert not output.exists()
