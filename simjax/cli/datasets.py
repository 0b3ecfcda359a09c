"""The data sets that published figures and recipes name: where they come from, how they lie."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from simjax.errors import SimjaxError

PAIR_COLUMNS = ("sentence1", "sentence2", "score")
LABELLED_PAIR = ("sentence1", "sentence2", "label")
LABELLED = ("sentence", "label")


@dataclass(frozen=True)
class File:
    """One file of a set, below the data root.

    Attributes:
        path: With or without `.gz`: the file may be either.
        rows: Records, the header not counted; any of these numbers is right.
        columns: The header of `tsv` and `csv` files.
    """

    path: str
    rows: tuple[int, ...]
    columns: tuple[str, ...] = ()

    @property
    def format(self) -> str:
        """The file's ending: tsv, csv, jsonl or txt."""
        return self.path.rsplit(".", 1)[-1]


@dataclass(frozen=True)
class DataSet:
    """Files that are used together.

    Attributes:
        name: As on the command line.
        source: Where the public gets it.
        used_by: Recipes and commands that read it.
    """

    name: str
    source: str
    used_by: str
    files: tuple[File, ...]


def _pairs(folder: str, **rows: int) -> tuple[File, ...]:
    return tuple(
        File(f"{folder}/{name.replace('_', '-')}.tsv", (count,), PAIR_COLUMNS)
        for name, count in rows.items()
    )


_EVALUATION = "simjax evaluate"

DATA_SETS = (
    DataSet(
        "sts12",
        "SemEval-2012 task 6, test",
        _EVALUATION,
        _pairs("en/sts12", MSRpar=750, MSRvid=750, OnWN=750, SMTeuroparl=459, SMTnews=399),
    ),
    DataSet(
        "sts13",
        "*SEM 2013 shared task, test, without SMT",
        _EVALUATION,
        _pairs("en/sts13", FNWN=189, OnWN=561, headlines=750),
    ),
    DataSet(
        "sts14",
        "SemEval-2014 task 10, test",
        _EVALUATION,
        _pairs(
            "en/sts14",
            OnWN=750,
            deft_forum=450,
            deft_news=300,
            headlines=750,
            images=750,
            tweet_news=750,
        ),
    ),
    DataSet(
        "stsb",
        "STS benchmark (SemEval-2017 task 1)",
        f"{_EVALUATION}; every recipe on real text, for its best checkpoint",
        _pairs("en/stsb", dev=1500, train=5749),
    ),
    DataSet(
        "nli",
        "SNLI and MultiNLI as triples (SimCSE's nli_for_simcse.csv, 275,601 rows), or"
        " 12,501 such triples",
        "supervised recipes, simjax lab bench train",
        (File("en/nli/triples_train.csv", (12_501, 275_601), ("sent0", "sent1", "hard_neg")),),
    ),
    DataSet(
        "snli",
        "SNLI (Bowman et al. 2015), dev, pairs on whose class most annotators agree",
        "configs/roformer_sim_supervised.yaml",
        (File("en/nli/snli_dev.tsv", (9831, 9842), ("premise", "hypothesis", "label")),),
    ),
    DataSet(
        "wiki",
        "58,629 sentences of English Wikipedia, one a line",
        "unsupervised recipes",
        (File("en/corpus/wiki_mixed.txt", (58_629,)),),
    ),
    DataSet(
        "headlines",
        "31,986 headlines of English news, one a line",
        "configs/univae_small.yaml",
        (File("en/corpus/headlines.txt", (31_986,)),),
    ),
    DataSet(
        "quora",
        "Quora Question Pairs (2017): duplicates, labelled training sample, balanced dev",
        "duplicate questions: positives at any batch size",
        (
            File("en/quora/positive_pairs.tsv", (37_073,), ("sentence1", "sentence2")),
            File("en/quora/train_20k.tsv", (19_210,), ("sentence1", "sentence2", "label")),
            File("en/quora/dev.tsv", (10_000,), ("sentence1", "sentence2", "label")),
        ),
    ),
    DataSet(
        "cranfield",
        "Cranfield 1400 collection, in BEIR's layout",
        f"{_EVALUATION} --tasks cranfield",
        (
            File("en/cranfield/corpus.jsonl", (1400,)),
            File("en/cranfield/queries.jsonl", (225,)),
            File("en/cranfield/qrels_test.tsv", (1837,), ("query-id", "corpus-id", "score")),
        ),
    ),
    DataSet(
        "transfer",
        "SentEval's MR, CR, MPQA (or a few rows fewer) and TREC",
        f"{_EVALUATION} --tasks transfer",
        (
            File("en/transfer/mr.tsv", (10_662,), LABELLED),
            File("en/transfer/cr.tsv", (3771, 3775), LABELLED),
            File("en/transfer/mpqa.tsv", (10_603, 10_606), LABELLED),
            File("en/transfer/trec_train.tsv", (5452,), LABELLED),
            File("en/transfer/trec_test.tsv", (500,), LABELLED),
        ),
    ),
    DataSet(
        "atec",
        "ATEC semantic similarity (Ant Financial, 2018), training part",
        f"{_EVALUATION} --tasks atec-train",
        (File("zh/atec/train.tsv", (39_346,), LABELLED_PAIR),),
    ),
    DataSet(
        "afqmc",
        "AFQMC of CLUE",
        f"{_EVALUATION} --tasks afqmc-dev",
        (
            File("zh/afqmc/train.tsv", (34_334,), LABELLED_PAIR),
            File("zh/afqmc/dev.tsv", (4316,), LABELLED_PAIR),
        ),
    ),
    DataSet(
        "lcqmc",
        "LCQMC (Liu et al. 2018), dev",
        f"{_EVALUATION} --tasks lcqmc-dev",
        (File("zh/lcqmc/dev.tsv", (8802,), LABELLED_PAIR),),
    ),
    DataSet(
        "zh-stsb",
        "STS benchmark in Chinese (STS-B of CNSD)",
        f"{_EVALUATION} --tasks zh-stsb-dev",
        (
            File("zh/stsb/train.tsv", (5231,), PAIR_COLUMNS),
            File("zh/stsb/dev.tsv", (1458,), PAIR_COLUMNS),
        ),
    ),
    DataSet(
        "zh-nli",
        "11,832 Chinese triples of natural language inference",
        "configs/roformer_sim_small.yaml",
        (File("zh/nli/triples.csv", (11_832,), ("sent0", "sent1", "hard_neg")),),
    ),
    DataSet(
        "vocab",
        "vocab.txt of bert-base-uncased on the Hugging Face hub",
        "recipes that start from a random encoder",
        (File("vocab/bert-base-uncased-vocab.txt", (30_522,)),),
    ),
)


def find(root: Path, file: File) -> Path | None:
    """The file below the root, plain or gzip; None where it is neither."""
    from simjax.data.records import plain_or_gzip

    path = plain_or_gzip(root / file.path)
    return path if path.is_file() else None


def count_rows(path: Path, file: File) -> int:
    """Number of records of a file whose every line is checked.

    Raises:
        SimjaxError: With file and line: not UTF-8, another header, a row with another number of
            fields, malformed JSON.
    """
    from simjax.eval.lines import read_lines

    lines = read_lines(path)
    if file.format == "txt":
        return sum(1 for _ in lines)
    if file.format == "jsonl":
        return sum(1 for _ in _objects(path, lines))
    rows = _csv_rows(path, lines) if file.format == "csv" else _tsv_rows(lines)
    header: list[str] | None = None
    count = 0
    for number, fields in rows:
        if header is None:
            header = fields
            missing = [name for name in file.columns if name not in header]
            if missing:
                raise SimjaxError(
                    f"{path}:{number}: no column {missing[0]!r}; expected {', '.join(file.columns)}"
                )
        elif len(fields) != len(header):
            raise SimjaxError(
                f"{path}:{number}: {len(fields)} fields, the header has {len(header)}"
            )
        else:
            count += 1
    if header is None:
        raise SimjaxError(f"{path}: is empty")
    return count


def _tsv_rows(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
    for number, line in lines:
        yield number, line.split("\t")


def _csv_rows(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
    from simjax.data.records import csv_rows

    found = csv_rows(path, (f"{line}\n" for _, line in lines))
    return ((number, fields) for number, fields in found if fields)


def _objects(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[object]:
    import json

    for number, line in lines:
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            raise SimjaxError(f"{path}:{number}: malformed JSON ({error.msg})") from error
        if not isinstance(found, dict):
            raise SimjaxError(f"{path}:{number}: not a JSON object")
        yield found
