import gzip
import json

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from simjax.errors import SimjaxError
from simjax.eval.geometry import unit_rows
from simjax.eval.retrieval import (
    RetrievalSet,
    rank,
    read_retrieval,
    score,
    score_ranking,
    tfidf_baseline,
    top_k,
)


def write(folder, name, lines):
    data = "".join(
        (line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines
    ).encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


@pytest.fixture
def folder(tmp_path):
    write(
        tmp_path,
        "corpus.jsonl.gz",
        [
            {"_id": "d1", "title": "Trees", "text": "remove a tree"},
            {"_id": "d2", "title": "", "text": "copy files"},
            {"_id": 3, "text": "sort a list"},
        ],
    )
    write(
        tmp_path,
        "queries.jsonl",
        [
            {"_id": "q1", "text": "how to sort"},
            {"_id": "q2", "text": "x"},
            {"_id": "q0", "text": "copy"},
        ],
    )
    write(
        tmp_path,
        "qrels_test.tsv",
        ["query-id\tcorpus-id\tscore", "q1\t3\t2", "q1\td1\t1", "q2\td1\t0", "q0\td2\t1"],
    )
    return tmp_path


def test_reads_the_layout_of_beir(folder):
    data = read_retrieval(folder)
    assert data.documents == ["Trees remove a tree", "copy files", "sort a list"]
    assert data.queries == ["how to sort", "copy"]  # q2 has no relevant document
    assert data.relevant == [{2: 2.0, 0: 1.0}, {1: 1.0}]


def test_judgements_can_be_named(folder):
    write(folder, "strict_qrels.tsv", ["query-id\tcorpus-id\tscore", "q2\td1\t1"])
    assert read_retrieval(folder, "strict_qrels.tsv").queries == ["x"]
    with pytest.raises(SimjaxError, match=r"absent\.tsv: no such file"):
        read_retrieval(folder, "absent.tsv")
    (folder / "qrels_test.tsv").unlink()
    with pytest.raises(SimjaxError, match=r"name one of strict_qrels\.tsv"):
        read_retrieval(folder)


@pytest.mark.parametrize(
    ("name", "lines", "complaint"),
    [
        (
            "queries.jsonl",
            ['{"_id": "q1", "text": "a"}', '{"_id": '],
            r"queries\.jsonl:2: malformed",
        ),
        ("queries.jsonl", ["[1]"], r"queries\.jsonl:1: not a JSON object with an '_id'"),
        ("queries.jsonl", [{"_id": "q1"}], r"queries\.jsonl:1: no 'text'"),
        ("queries.jsonl", [{"_id": "q1", "text": 5}], r"queries\.jsonl:1: text must be strings"),
        ("queries.jsonl", [{"_id": "a", "text": ""}] * 2, r"'a' occurs twice"),
        ("queries.jsonl", [], r"queries\.jsonl: no records"),
        ("qrels_test.tsv", ["query-id\tcorpus-id\tgrade"], r"qrels_test\.tsv:1: the header"),
        ("qrels_test.tsv", ["query-id\tcorpus-id\tscore", "q1\td1"], r"tsv:2: 2 tab"),
        ("qrels_test.tsv", ["query-id\tcorpus-id\tscore", "q9\td1\t1"], r"tsv:2: query 'q9'"),
        ("qrels_test.tsv", ["query-id\tcorpus-id\tscore", "q1\td9\t1"], r"tsv:2: document 'd9'"),
        ("qrels_test.tsv", ["query-id\tcorpus-id\tscore", "q1\td1\tx"], r"tsv:2: score 'x'"),
        ("qrels_test.tsv", ["query-id\tcorpus-id\tscore", "q1\td1\t0"], r"no document is relevant"),
    ],
)
def test_malformed_files_name_the_line(folder, name, lines, complaint):
    write(folder, name, lines)
    with pytest.raises(SimjaxError, match=complaint):
        read_retrieval(folder)


def test_missing_files(folder):
    with pytest.raises(SimjaxError, match="no such folder"):
        read_retrieval(folder / "absent")
    (folder / "corpus.jsonl.gz").unlink()
    with pytest.raises(SimjaxError, match=r"no corpus\.jsonl"):
        read_retrieval(folder)


def test_sets_on_which_nothing_is_defined_are_refused():
    with pytest.raises(SimjaxError, match="at least one"):
        RetrievalSet([], [], [])
    with pytest.raises(SimjaxError, match="only queries with a relevant"):
        RetrievalSet(["q"], ["d"], [{}])
    with pytest.raises(SimjaxError, match="2 queries but relevance for 1"):
        RetrievalSet(["q", "r"], ["d"], [{0: 1.0}])


def test_ties_go_to_the_earlier_document():
    scores = np.array([[1.0, 3, 3, 2, 3, 1, 1], [0, 0, 0, 0, 0, 0, 0]])
    assert top_k(scores, 2).tolist() == [[1, 2], [0, 1]]
    assert top_k(scores, 5).tolist() == [[1, 2, 4, 3, 0], [0, 1, 2, 3, 4]]
    assert top_k(scores, 99).shape == (2, 7)


def test_documents_with_one_text_tie_exactly():
    texts = unit_rows(np.random.default_rng(0).normal(size=(3, 33)))
    documents = np.array([2, 1, 0, 1, 2] * 50)
    found = rank(texts, texts, documents, 60, tile=300)
    for query in range(3):
        same = np.flatnonzero(documents == query).tolist()
        assert found[query, : len(same)].tolist() == same[:60]


def test_scores_match_scikit_learn_and_plain_statements():
    rng = np.random.default_rng(1)
    documents, queries = 150, 12
    texts = unit_rows(rng.normal(size=(documents + queries, 4)))
    relevant = [
        {
            int(d): float(rng.integers(1, 4))
            for d in rng.choice(documents, rng.integers(1, 30), False)
        }
        for _ in range(queries)
    ]
    data = RetrievalSet(["q"] * queries, ["d"] * documents, relevant)
    result = score(data, texts[documents:], np.arange(documents), texts)

    cosine = (texts[documents:] @ texts[:documents].T).astype(np.float64)
    gains = np.zeros((queries, documents))
    for row, judged in enumerate(relevant):
        gains[row, list(judged)] = list(judged.values())
    assert result.ndcg_at_10 == pytest.approx(100 * ndcg_score(gains, cosine, k=10), rel=1e-9)
    order = np.argsort(-cosine, axis=1)
    for k in (1, 10, 100):
        shares = [
            len(set(order[row, :k].tolist()) & set(judged)) / len(judged)
            for row, judged in enumerate(relevant)
        ]
        assert result.recall[k] == pytest.approx(100 * np.mean(shares))
    reciprocal = []
    for row, judged in enumerate(relevant):
        ranks = [i + 1 for i, d in enumerate(order[row, :10].tolist()) if d in judged]
        reciprocal.append(1 / ranks[0] if ranks else 0.0)
    assert 0.0 in reciprocal  # the cut at 10 matters here
    assert result.mrr_at_10 == pytest.approx(100 * np.mean(reciprocal))


def test_a_corpus_smaller_than_the_depths():
    result = score_ranking(np.array([[1, 0]]), [{0: 1.0}])
    assert result.ndcg_at_10 == pytest.approx(100 / np.log2(3))
    assert result.recall == {1: 0.0, 10: 100.0, 100: 100.0}


def test_tfidf_finds_the_shared_word(folder):
    result = tfidf_baseline(read_retrieval(folder))
    assert result.recall[1] == pytest.approx(75.0)  # one of two relevant for q1, the one for q0
    assert result.mrr_at_10 == 100.0
