"""Retrieval: does the nearest document by cosine similarity answer the query?"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from simjax.data.records import plain_or_gzip
from simjax.errors import SimjaxError
from simjax.eval.lines import read_lines

CUTOFFS = (1, 10, 100)
"""Depths at which recall is reported; nDCG and MRR are reported at 10."""

QRELS_HEADER = ("query-id", "corpus-id", "score")
QRELS_NAMES = ("qrels/test.tsv", "qrels.tsv", "qrels_test.tsv", "qrels/dev.tsv")


@dataclass(frozen=True)
class RetrievalSet:
    """Queries, documents, and how relevant which document is to which query.

    Attributes:
        queries: Texts of the queries that have a relevant document.
        documents: Texts of all documents.
        relevant: For each query, document index to a relevance above 0.
    """

    queries: list[str]
    documents: list[str]
    relevant: list[dict[int, float]]

    def __post_init__(self) -> None:
        """Refuse a set on which no score is defined."""
        if not self.queries or not self.documents:
            raise SimjaxError("a retrieval set needs at least one query and one document")
        if len(self.queries) != len(self.relevant):
            raise SimjaxError(f"{len(self.queries)} queries but relevance for {len(self.relevant)}")
        if not all(self.relevant):
            raise SimjaxError("a retrieval set holds only queries with a relevant document")


@dataclass(frozen=True)
class RetrievalScores:
    """Means over queries, all times 100.

    nDCG has linear gain and the discount ``1 / log2(rank + 1)``; recall@k is the share of a
    query's relevant documents among the first k; MRR@10 is the mean of 1 / rank of the first
    relevant document, 0 below rank 10.
    """

    ndcg_at_10: float
    mrr_at_10: float
    recall: dict[int, float]


def _records(path: Path, keys: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(id, texts of `keys` joined by a space) of a JSON Lines file; absent keys are empty."""
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise SimjaxError(
                f"{path}:{number}: malformed JSON ({error.msg}, column {error.colno})"
            ) from error
        except (ValueError, RecursionError) as error:  # thousands of digits, or of brackets
            raise SimjaxError(f"{path}:{number}: malformed JSON (too long or too deep)") from error
        if not isinstance(record, dict) or not isinstance(record.get("_id"), str | int):
            raise SimjaxError(f"{path}:{number}: not a JSON object with an '_id'")
        if "text" not in record:
            raise SimjaxError(f"{path}:{number}: no 'text'")
        texts = [record.get(key) or "" for key in keys]
        if not all(isinstance(text, str) for text in texts):
            raise SimjaxError(f"{path}:{number}: {' and '.join(keys)} must be strings")
        yield str(record["_id"]), " ".join(texts).strip()


def _unique(path: Path, records: Iterator[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, text in records:
        if key in found:
            raise SimjaxError(f"{path}: '_id' {key!r} occurs twice")
        found[key] = text
    if not found:
        raise SimjaxError(f"{path}: no records")
    return found


def _either(folder: Path, name: str) -> Path:
    found = plain_or_gzip(folder / name)
    if found.is_file():
        return found
    raise SimjaxError(f"{folder}: no {name} or {name}.gz in this folder")


def _qrels_file(folder: Path, name: str | None) -> Path:
    if name is not None:
        if not (folder / name).is_file():
            raise SimjaxError(f"{folder / name}: no such file")
        return folder / name
    for candidate in QRELS_NAMES:
        if (folder / candidate).is_file():
            return folder / candidate
    others = sorted(str(p.relative_to(folder)) for p in folder.glob("**/*qrels*.tsv"))
    hint = f"; name one of {', '.join(others)} as the task's qrels" if others else ""
    raise SimjaxError(f"{folder}: none of {', '.join(QRELS_NAMES)} in this folder{hint}")


def _judgements(
    path: Path, queries: Mapping[str, str], documents: Mapping[str, int]
) -> dict[str, dict[int, float]]:
    relevant: dict[str, dict[int, float]] = {}
    for number, line in read_lines(path):
        fields = tuple(line.split("\t"))
        if number == 1:
            if fields != QRELS_HEADER:
                raise SimjaxError(
                    f"{path}:1: the header must be {' '.join(QRELS_HEADER)}, tab-separated;"
                    f" found {' '.join(fields)!r}"
                )
            continue
        if not line:
            continue
        if len(fields) != 3:
            raise SimjaxError(f"{path}:{number}: {len(fields)} tab-separated fields instead of 3")
        query, document, text = fields
        if query not in queries:
            raise SimjaxError(f"{path}:{number}: query {query!r} is not among the queries")
        if document not in documents:
            raise SimjaxError(f"{path}:{number}: document {document!r} is not in the corpus")
        try:
            gain = float(text)
        except ValueError:
            gain = math.nan
        if not math.isfinite(gain):
            raise SimjaxError(f"{path}:{number}: score {text!r} is not a finite number")
        if gain > 0:  # 0 is judged and found irrelevant
            relevant.setdefault(query, {})[documents[document]] = gain
    if not relevant:
        raise SimjaxError(f"{path}: no document is relevant to any query")
    return relevant


def read_retrieval(folder: Path | str, qrels: str | None = None) -> RetrievalSet:
    """Read a folder in the layout of BEIR.

    `corpus.jsonl` (`_id`, `title`, `text`; the document is title, space, text) and
    `queries.jsonl` (`_id`, `text`), plain or `.gz`, and a TSV file of judgements with the header
    ``query-id corpus-id score``. Queries without a relevant document are left out.

    Args:
        folder: The folder.
        qrels: Name of the judgements inside it; by default the first that exists of
            `qrels/test.tsv`, `qrels.tsv`, `qrels_test.tsv`, `qrels/dev.tsv`.

    Raises:
        SimjaxError: With file and line, for anything missing or malformed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SimjaxError(f"{folder}: no such folder")
    corpus_file, queries_file = _either(folder, "corpus.jsonl"), _either(folder, "queries.jsonl")
    qrels_file = _qrels_file(folder, qrels)
    documents = _unique(corpus_file, _records(corpus_file, ("title", "text")))
    queries = _unique(queries_file, _records(queries_file, ("text",)))
    position = {key: index for index, key in enumerate(documents)}
    relevant = _judgements(qrels_file, queries, position)
    kept = [key for key in queries if key in relevant]
    return RetrievalSet(
        [queries[key] for key in kept],
        list(documents.values()),
        [relevant[key] for key in kept],
    )


def top_k(scores: Float[np.ndarray, "Q N"], k: int) -> Int[np.ndarray, "Q K"]:
    """Columns of the k largest scores of each row, best first; ties go to the lower column.

    Fewer than k columns give all of them.
    """
    k = min(k, scores.shape[1])
    bounds = -np.partition(-scores, k - 1, axis=1)[:, k - 1]
    ranking = np.empty((len(scores), k), np.int64)
    for row, (values, bound) in enumerate(zip(scores, bounds, strict=True)):
        candidates = np.flatnonzero(values >= bound)
        order = np.argsort(-values[candidates], kind="stable")
        ranking[row] = candidates[order[:k]]
    return ranking


def rank(
    queries: Float[np.ndarray, "Q D"],
    texts: Float[np.ndarray, "T D"],
    documents: Int[np.ndarray, "N"],
    k: int,
    tile: int = 1 << 25,
) -> Int[np.ndarray, "Q K"]:
    """The k nearest documents of each query by inner product, ties by document order.

    Args:
        queries: Unit embeddings.
        texts: Unit embeddings of distinct texts.
        documents: The text of each document. Documents that share a text share a score to the
            last bit, which separate products would not promise.
        k: Depth.
        tile: Scores held at once.
    """
    step = max(1, tile // len(documents))
    used, place = np.unique(documents, return_inverse=True)
    keys = texts[used]
    return np.concatenate(
        [
            top_k((queries[start : start + step] @ keys.T)[:, place], k)
            for start in range(0, len(queries), step)
        ]
    )


def score_ranking(
    ranking: Int[np.ndarray, "Q K"], relevant: Sequence[Mapping[int, float]]
) -> RetrievalScores:
    """Score the documents found for each query, best first, against their relevance."""
    depth = ranking.shape[1]
    gains = np.zeros((len(relevant), depth))
    ideal = np.zeros((len(relevant), 10))
    for row, judged in enumerate(relevant):
        gains[row] = [judged.get(int(document), 0.0) for document in ranking[row]]
        best = sorted(judged.values(), reverse=True)[:10]
        ideal[row, : len(best)] = best
    discount = 1.0 / np.log2(np.arange(2, 12))
    first_ten = gains[:, :10]
    ndcg = first_ten @ discount[: first_ten.shape[1]] / (ideal @ discount)
    hit = first_ten > 0
    first = np.where(hit.any(axis=1), 1.0 / (hit.argmax(axis=1) + 1), 0.0)
    wanted = np.asarray([len(judged) for judged in relevant])
    recall = {k: 100.0 * float(np.mean((gains[:, :k] > 0).sum(axis=1) / wanted)) for k in CUTOFFS}
    return RetrievalScores(100.0 * float(ndcg.mean()), 100.0 * float(first.mean()), recall)


def score(
    data: RetrievalSet,
    queries: Float[np.ndarray, "Q D"],
    documents: Int[np.ndarray, "N"],
    texts: Float[np.ndarray, "T D"],
) -> RetrievalScores:
    """Rank the documents by cosine similarity and score the ranking.

    Args:
        data: The set.
        queries: Unit embeddings of its queries.
        documents: For each of its documents, the row of `texts` that holds its embedding.
        texts: Unit embeddings of distinct texts.
    """
    return score_ranking(rank(queries, texts, documents, max(CUTOFFS)), data.relevant)


def tfidf_baseline(data: RetrievalSet) -> RetrievalScores:
    """Scores of scikit-learn's TF-IDF vectors (sublinear term frequency) under cosine.

    The vocabulary and the document frequencies come from the documents alone.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Single characters and symbols are words here: the queries may be about code.
    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+")
    documents = vectorizer.fit_transform(data.documents)
    queries = vectorizer.transform(data.queries)
    step = max(1, (1 << 25) // len(data.documents))
    found = [
        top_k((queries[start : start + step] @ documents.T).toarray(), max(CUTOFFS))
        for start in range(0, len(data.queries), step)
    ]
    return score_ranking(np.concatenate(found), data.relevant)
