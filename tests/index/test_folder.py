"""Saved indexes of every kind, and what is refused."""

import json
import sys

import numpy as np
import pytest

from simjax.errors import SimjaxError, UsageError
from simjax.index import folder as folders
from simjax.index.folder import About, SavedIndex, build
from simjax.index.recall import measure, recall_at, without_self
from simjax.inference.formats import EmbeddingFile
from simjax.processes import drafts

KINDS = ("exact", "int8", "binary", "faiss-flat", "faiss-ivf", "faiss-hnsw")
WIDTH = 40


def clustered(seed, count):
    """Vectors with neighbours, as embeddings have them."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(20, WIDTH))
    x = centres[rng.integers(0, 20, count)] + 0.6 * rng.normal(size=(count, WIDTH))
    return x.astype(np.float32)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("embeddings") / "x.npy"
    np.save(path, clustered(0, 700))
    return EmbeddingFile(path)


def unit(x):
    return (x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)).astype(np.float32)


def ranking(queries, rows, k):
    scores = queries.astype(np.float64) @ rows.astype(np.float64).T
    return np.argsort(-scores, axis=1, kind="stable")[:, :k], np.sort(-scores, axis=1)[:, :k]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_finds_neighbours(source, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(folders, "PART", 128)
    texts = [f"text {i}\u2028é" if i % 7 else " " for i in range(700)]
    about = build(source, tmp_path / "index", kind=kind, texts=texts)
    kept = np.asarray([i for i in range(700) if i % 7])
    assert about == About(kind, 600, WIDTH, None, not kind.startswith("faiss"), True)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    index = SavedIndex(tmp_path / "index")
    rows, queries = unit(clustered(0, 700))[kept], unit(clustered(1, 30))
    expected, scores = ranking(queries, rows, 5)
    hits = index.search(queries, 5)
    least = {"exact": 1.0, "faiss-flat": 1.0, "int8": 1.0, "binary": 0.8}.get(kind, 0.6)
    assert recall_at(hits.rows, expected, 5) >= least
    # What is found is scored by the embeddings, best first.
    exact = np.einsum("qd,qkd->qk", queries.astype(float), rows[hits.rows].astype(float))
    np.testing.assert_allclose(hits.scores, exact, atol=1e-5)
    assert (np.diff(hits.scores, axis=1) <= 0).all()
    if least == 1.0:
        np.testing.assert_array_equal(hits.rows, expected)
        np.testing.assert_allclose(hits.scores, -scores, atol=1e-5)
    row = int(hits.rows[0, 0])
    assert index.texts[row] == texts[kept[row]] and index.texts.lines[row] == kept[row] + 1
    assert index.texts[-1] == texts[kept[-1]]
    assert index.texts[3:5] == [texts[kept[3]], texts[kept[4]]]
    with pytest.raises(IndexError):
        index.texts[600]


def test_codes_alone(source, tmp_path):
    rows, queries = unit(clustered(0, 700)), unit(clustered(1, 30))
    expected, _ = ranking(queries, rows, 5)
    found = {}
    for kind in ("int8", "binary"):
        build(source, tmp_path / kind, kind=kind, keep_embeddings=False)
        assert not (tmp_path / kind / "embeddings.npy").exists()
        index = SavedIndex(tmp_path / kind)
        found[kind] = index.search(queries, 5)
        again = index.search(queries, 5, rescore=0)
        assert recall_at(again.rows, expected, 5) > 0.3
        if kind == "binary":
            # Hamming distance, as a cosine of signs.
            signs, mine = np.where(rows > 0, 1, -1), np.where(queries > 0, 1, -1)
            cosine = mine @ signs.T / WIDTH
            np.testing.assert_array_equal(again.rows, np.argsort(-cosine, 1, "stable")[:, :5])
            np.testing.assert_allclose(again.scores, -np.sort(-cosine, 1)[:, :5], atol=1e-6)
            # Candidates ranked by the float query against signs.
            best = np.take_along_axis(queries @ signs.T / WIDTH**0.5, found[kind].rows, 1)
            np.testing.assert_allclose(found[kind].scores, best, atol=1e-5)
    assert recall_at(found["int8"].rows, expected, 5) > 0.95
    close = np.einsum("qd,qkd->qk", queries, rows[found["int8"].rows])
    np.testing.assert_allclose(found["int8"].scores, close, atol=0.01)
    codes = np.load(tmp_path / "binary" / "codes.npy")
    assert codes.nbytes == 700 * 8


def test_more_effort_finds_more(source, tmp_path):
    build(source, tmp_path / "ivf", kind="faiss-ivf")
    index = SavedIndex(tmp_path / "ivf")
    rows = unit(clustered(0, 700))
    queries = unit(np.random.default_rng(2).normal(size=(30, WIDTH)).astype(np.float32))
    expected, _ = ranking(queries, rows, 10)
    recalls = [
        recall_at(index.search(queries, 10, effort=n).rows, expected, 10) for n in (1, 3, 99)
    ]
    assert recalls[0] < recalls[1] < recalls[2] == 1.0


def test_recall_is_measured_beside_exact_search_without_oneself(source, tmp_path):
    def recall(index, embeddings):
        return measure(index, embeddings, 50)

    about = build(source, tmp_path / "b", kind="binary", recall=recall, keep_embeddings=False)
    assert list(about.recall) == ["recall@1", "recall@10", "recall@100"]
    assert SavedIndex(tmp_path / "b").about == about
    rows = unit(clustered(0, 700))
    own = np.unique(np.linspace(0, 699, 50).astype(int))
    scores = rows[own].astype(float) @ rows.T.astype(float)
    scores[np.arange(50), own] = -9
    true = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    hits = SavedIndex(tmp_path / "b").search(rows[own], 11)
    found = [[r for r in line if r != o][:10] for line, o in zip(hits.rows, own, strict=True)]
    shared = [len(set(a) & set(b)) for a, b in zip(found, true.tolist(), strict=True)]
    assert about.recall["recall@10"] == pytest.approx(sum(shared) / 500)
    assert 0 < about.recall["recall@10"] < 1
    exact = build(source, tmp_path / "e", recall=recall)
    assert exact.recall is None  # which is all there is to find


def test_recall_by_hand():
    true, found = np.asarray([[3, 4, 5], [1, 2, -1]]), np.asarray([[4, 9, 3], [2, -1, -1]])
    assert recall_at(found, true, 1) == 0
    assert recall_at(found, true, 3) == pytest.approx(3 / 5)
    hits = folders.Hits(np.zeros((2, 3)), np.asarray([[7, 1, 2], [3, 1, -1]]))
    np.testing.assert_array_equal(without_self(hits, np.asarray([1, 1]), 2), [[7, 2], [3, -1]])


def test_texts_must_be_as_many(source, tmp_path):
    for count, names in ((699, "only 699 texts"), (701, "more texts")):
        with pytest.raises(SimjaxError, match=names):
            build(source, tmp_path / "index", texts=["a"] * count)
    with pytest.raises(SimjaxError, match="all texts are empty"):
        build(source, tmp_path / "index", texts=[""] * 700)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_calls_have_left_is_cleared_up(source, tmp_path):
    folder = tmp_path / "index"
    build(source, folder)
    left = drafts.draft_of(folder)
    left.mkdir()
    folder.rename(left.with_name(left.name.replace("partial", "old")))
    with pytest.raises(SimjaxError, match="--overwrite replaces it"):
        build(source, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert SavedIndex(folder).about.rows == 700


def test_only_an_index_is_replaced(source, tmp_path):
    build(source, tmp_path / "index")
    with pytest.raises(SimjaxError, match="exists already, and --overwrite"):
        build(source, tmp_path / "index")
    assert build(source, tmp_path / "index", kind="int8", overwrite=True).kind == "int8"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "dear.txt").write_text("")
    with pytest.raises(SimjaxError, match="it is no index"):
        build(source, tmp_path / "other", overwrite=True)


def test_without_faiss_the_way_out_is_named(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(SimjaxError, match=r"pip install 'simjax\[index\]', or choose exact"):
        build(source, tmp_path / "index", kind="faiss-flat")
    assert list(tmp_path.iterdir()) == []


def test_damaged_folders_are_named(source, tmp_path):
    def edit(**changes):
        path = tmp_path / "index" / "index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    cases = [
        (lambda f: (f / "embeddings.npy").unlink(), "is damaged"),
        (lambda f: (f / "codes.npy").write_bytes(b"x"), "is damaged"),
        (lambda f: np.save(f / "codes.npy", np.zeros((700, 3), np.int8)), "codes.npy is int8 of"),
        (lambda f: np.save(f / "ranges.npy", np.zeros(3)), "ranges.npy has shape"),
        (lambda f: (f / "texts.bin").write_bytes(b"short"), "does not fit texts.bin"),
        (lambda f: (f / "index.json").unlink(), "is no index"),
        (lambda f: (f / "index.json").write_text("{"), "cannot be read"),
        (lambda f: edit(version=99), "version 99"),
        (lambda f: edit(kind="fast"), "kind fast"),
        (lambda f: edit(rows="many"), "rows many"),
        (lambda f: edit(more=1), "cannot be read"),
    ]
    for damage, names in cases:
        build(source, tmp_path / "index", kind="int8", texts=["a"] * 700, overwrite=True)
        damage(tmp_path / "index")
        with pytest.raises(SimjaxError, match=names) as caught:
            SavedIndex(tmp_path / "index")
        assert str(tmp_path / "index") in str(caught.value)
        if not (tmp_path / "index" / "index.json").exists():
            (tmp_path / "index" / "index.json").write_text("{}")
    build(source, tmp_path / "faiss", kind="faiss-flat")
    (tmp_path / "faiss" / "index.faiss").write_bytes(b"no")
    with pytest.raises(SimjaxError, match="cannot be read by faiss"):
        SavedIndex(tmp_path / "faiss")


def test_options_out_of_range(source, tmp_path):
    build(source, tmp_path / "index", kind="int8")
    index = SavedIndex(tmp_path / "index")
    queries = unit(clustered(1, 2))
    with pytest.raises(UsageError, match="3 dimensions, the index 40"):
        index.search(queries[:, :3], 5)
    with pytest.raises(UsageError, match="k 0"):
        index.search(queries, 0)
    with pytest.raises(UsageError, match="rescore -1"):
        index.search(queries, 1, rescore=-1)
