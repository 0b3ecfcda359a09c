"""encode, search and evaluate on a tiny model."""

import gzip
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from scipy import stats

from simjax.sentence_encoder import SentenceEncoder

from .conftest import TEXTS


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def embeddings(model_folder: Path) -> np.ndarray:
    """Of TEXTS, each by itself."""
    encoder = SentenceEncoder.from_pretrained(model_folder)
    return np.stack([encoder.encode(text, normalize=False) for text in TEXTS])


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_encode_writes_a_row_per_line(simjax, model_folder, corpus, embeddings, tmp_path) -> None:
    output = tmp_path / "new" / "x.npy"
    status, out, _ = simjax("encode", model_folder, corpus, output)
    assert status == 0
    assert out == f"{output}: 5 embeddings of width 16\n"
    found = np.load(output)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, embeddings, atol=1e-6)
    assert [path.name for path in output.parent.iterdir()] == ["x.npy"]


def test_encode_options(simjax, model_folder, corpus, embeddings, tmp_path) -> None:
    output = tmp_path / "x.npy"
    arguments = ["encode", model_folder, corpus, output]
    assert simjax(*arguments, "--normalize").status == 0
    np.testing.assert_allclose(np.load(output), unit(embeddings), atol=1e-6)
    assert simjax(*arguments, "--truncate_dim", "4", "--normalize").status == 0
    np.testing.assert_allclose(np.load(output), unit(embeddings[:, :4]), atol=1e-6)
    assert simjax(*arguments, "--max_length", "3").status == 0
    assert np.abs(np.load(output) - embeddings).max() > 1e-3
    assert simjax(*arguments, "--prompt", "the cat ").status == 0
    assert np.abs(np.load(output) - embeddings).max() > 1e-3


def test_encode_keeps_empty_lines(simjax, model_folder, tmp_path, embeddings) -> None:
    path = tmp_path / "x.txt.gz"
    path.write_bytes(gzip.compress(f"{TEXTS[0]}\r\n\n{TEXTS[1]}".encode()))
    assert simjax("encode", model_folder, path, tmp_path / "x.npy").status == 0
    found = np.load(tmp_path / "x.npy")
    np.testing.assert_allclose(found[[0, 2]], embeddings[:2], atol=1e-6)


def test_encode_reads_standard_input(simjax, model_folder, tmp_path, embeddings, monkeypatch):
    lines = "\n".join(TEXTS).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert simjax("encode", model_folder, "-", tmp_path / "x.npy").status == 0
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), embeddings, atol=1e-6)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n\xff\n")))
    status, _, err = simjax("encode", model_folder, "-", tmp_path / "x.npy")
    assert (status, err) == (1, "simjax: standard input:2: not valid UTF-8\n")


def test_encode_goes_on_where_it_stopped(
    simjax, model_folder, embeddings, tmp_path, monkeypatch
) -> None:
    from simjax.inference import embedder

    # Windows end after 50 characters, and so have two texts or three.
    monkeypatch.setattr(embedder, "CHARACTERS", 50 / embedder.WINDOW)
    path, output = tmp_path / "in.txt", tmp_path / "x.safetensors"
    lines = [text.encode() + b"\n" for text in (*TEXTS, *TEXTS)]
    whole = b"".join(lines)
    # The ninth line cannot be read, and those before it are three windows.
    path.write_bytes(b"".join([*lines[:8], b"\xff\n"]))
    status, _, err = simjax("encode", model_folder, path, output)
    assert status == 1 and "in.txt:9: not valid UTF-8" in err
    assert not output.exists()
    done = json.loads((tmp_path / "x.safetensors.partial.json").read_text())["rows"]
    assert 0 < done <= 8

    path.write_bytes(b"another\n" + whole)
    status, _, err = simjax("encode", model_folder, path, output)
    assert status == 1 and "belong to other texts" in err
    path.write_bytes(whole)
    status, _, err = simjax("encode", model_folder, path, output, "--dtype", "bfloat16")
    assert status == 1 and "another dtype ('float32' there, 'bfloat16' here)" in err

    seen: list[str] = []
    encode = SentenceEncoder.encode_stream

    def counting(self, sentences, **options):
        return encode(self, (seen.append(text) or text for text in sentences), **options)

    monkeypatch.setattr(SentenceEncoder, "encode_stream", counting)
    status, out, err = simjax("encode", model_folder, path, output)
    assert status == 0 and f"going on after {done} embeddings" in err
    assert seen == [*TEXTS, *TEXTS][done:]
    assert out == f"{output}: 10 embeddings of width 16\n"
    with safe_open(output, framework="np") as file:
        np.testing.assert_allclose(
            file.get_tensor("embeddings"), np.tile(embeddings, (2, 1)), atol=1e-6
        )
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in.txt", "x.safetensors"]


@pytest.mark.parametrize(
    ("content", "output", "status", "names"),
    [
        (b"a\n\xe9\n", "x.npy", 1, "in.txt:2: not valid UTF-8"),
        (b"", "x.npy", 1, "in.txt: holds no text"),
        (b"\n \n", "x.npy", 1, "in.txt: holds no text"),
        (None, "x.npy", 1, "in.txt: no such file"),
        (b"a\n", "x.txt", 2, "must end in .npy, .safetensors or .parquet"),
    ],
)
def test_encode_refuses(simjax, model_folder, tmp_path, content, output, status, names) -> None:
    path = tmp_path / "in.txt"
    if content is not None:
        path.write_bytes(content)
    outcome = simjax("encode", model_folder, path, tmp_path / output)
    assert outcome.status == status
    # Texts of white space are counted before that is all there is.
    assert outcome.err.splitlines()[-1].startswith("simjax: ")
    assert outcome.err.count("\n") == (2 if content == b"\n \n" else 1)
    assert names in outcome.err
    assert not list(tmp_path.glob("x.*"))


def test_models_that_are_none(simjax, corpus, tmp_path) -> None:
    for name in (tmp_path / "absent", corpus):
        status, _, err = simjax("search", name, corpus, "x")
        assert status == 1
        assert str(name) in err and err.count("\n") == 1


def test_search_ranks_by_cosine(simjax, model_folder, corpus, embeddings, tmp_path) -> None:
    corpus.write_text("\n" + corpus.read_text(), encoding="utf-8")
    query = TEXTS[3]
    status, out, _ = simjax(
        "search", model_folder, corpus, query, "zzz", "--top_k", 3, "--json", tmp_path / "x.json"
    )
    assert status == 0
    scores = unit(embeddings) @ unit(embeddings)[3]
    best = np.argsort(-scores, kind="stable")[:3]
    found = json.loads((tmp_path / "x.json").read_text())["queries"]
    assert [entry["query"] for entry in found] == [query, "zzz"]
    # The file's first line is empty.
    assert [hit["line"] for hit in found[0]["hits"]] == [int(i) + 2 for i in best]
    assert [hit["text"] for hit in found[0]["hits"]] == [TEXTS[i] for i in best]
    np.testing.assert_allclose([h["score"] for h in found[0]["hits"]], scores[best], atol=1e-5)
    lines = out.splitlines()
    assert lines[0] == query
    assert lines[1].split(maxsplit=3) == ["1", "1.0000", "5", TEXTS[3]]


def test_search_threshold(simjax, model_folder, corpus) -> None:
    status, out, _ = simjax("search", model_folder, corpus, TEXTS[0], "--threshold", "0.9999")
    assert status == 0
    assert len(out.splitlines()) == 2
    assert "nothing" in simjax("search", model_folder, corpus, "a", "--threshold", "1.5").out


def test_evaluate_a_file_of_pairs(simjax, model_folder, embeddings, tmp_path) -> None:
    gold = [5.0, 1.0, 3.0, 4.5]
    rows = [f"{TEXTS[i]}\t{TEXTS[i + 1]}\t{gold[i]}" for i in range(4)]
    path = tmp_path / "pairs.tsv"
    path.write_text("sentence1\tsentence2\tscore\n" + "\n".join(rows) + "\n", encoding="utf-8")
    status, out, _ = simjax(
        "evaluate",
        model_folder,
        "--sts",
        path,
        "--json",
        tmp_path / "x.json",
        "--plot",
        tmp_path / "x.png",
    )
    assert status == 0
    x = unit(embeddings.astype(np.float64))
    cosine = np.sum(x[:4] * x[1:], axis=1)
    figures = json.loads((tmp_path / "x.json").read_text())
    assert figures["model"] == str(model_folder)
    assert figures["scores"]["pairs/spearman"] == pytest.approx(
        100 * stats.spearmanr(cosine, gold).statistic
    )
    assert "pairs" in out and "spearman" in out
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_a_root(simjax, model_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("SIMJAX_DATA", raising=False)
    assert "--root" in simjax("evaluate", model_folder, "--tasks", "sts12").err
    status, _, err = simjax("evaluate", model_folder, "--data.root", tmp_path)
    assert status == 1 and "none of sts12" in err
    folder = tmp_path / "en" / "sts13"
    folder.mkdir(parents=True)
    rows = [f"{TEXTS[i]}\t{TEXTS[i + 1]}\t{i}" for i in range(4)]
    for name in ("OnWN", "FNWN"):
        (folder / f"{name}.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *rows]))
    status, out, _ = simjax("evaluate", model_folder, "--data.root", tmp_path)
    assert status == 0
    assert "sts13" in out and "sts12" not in out and "spearman_mean" in out
    status, _, err = simjax("evaluate", model_folder, "--tasks", "sts12", "--root", tmp_path)
    assert status == 1 and "en/sts12" in err


def test_evaluate_retrieval_beside_a_baseline(simjax, model_folder, tmp_path) -> None:
    folder = tmp_path / "beir"
    folder.mkdir()
    documents = [{"_id": str(i), "title": "", "text": text} for i, text in enumerate(TEXTS)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": TEXTS[2]}))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\t2\t1\n")
    status, out, _ = simjax(
        "evaluate", model_folder, "--retrieval", folder, "--baseline", "--json", tmp_path / "x.json"
    )
    assert status == 0
    figures = json.loads((tmp_path / "x.json").read_text())
    assert figures["scores"]["beir/ndcg@10"] == pytest.approx(100.0)
    assert figures["baseline"]["beir/ndcg@10"] == pytest.approx(100.0)
    assert "TF-IDF" in out
    assert figures["scores"]["beir/alignment"] == pytest.approx(0.0, abs=1e-6)

    encoder = SentenceEncoder.from_pretrained(model_folder, normalize=True)
    encoder.prompts = {"query": f"{TEXTS[0]} "}
    other = encoder.save_pretrained(tmp_path / "other")
    arguments = ["--retrieval", folder, "--json", tmp_path / "x.json"]
    assert simjax("evaluate", other, *arguments).status == 0
    query, document = encoder.encode([f"{TEXTS[0]} {TEXTS[2]}", TEXTS[2]])
    found = json.loads((tmp_path / "x.json").read_text())["scores"]["beir/alignment"]
    assert found == pytest.approx(float(((query - document) ** 2).sum()), rel=1e-4) and found > 1e-3


def test_evaluate_beside_another_model(simjax, model_folder, embeddings, tmp_path) -> None:
    path = tmp_path / "pairs.tsv"
    rows = [f"{TEXTS[i]}\t{TEXTS[i + 1]}\t{i}" for i in range(4)]
    path.write_text("sentence1\tsentence2\tscore\n" + "\n".join(rows) + "\n", encoding="utf-8")
    other = tmp_path / "other"
    encoder = SentenceEncoder.from_pretrained(model_folder, pooling="cls")
    encoder.save_pretrained(other)
    arguments = ["evaluate", model_folder, "--sts", path, "--compare", other]
    figures = {}
    for shrinkage in (0, 0.5):
        status, out, _ = simjax(*arguments, "--shrinkage", shrinkage, "--json", tmp_path / "x.json")
        assert status == 0
        assert all(word in out for word in ("other", "between", "pairs", "kl_reverse"))
        assert ("inf: the two sets fill different subspaces" in out) == (shrinkage == 0)
        figures[shrinkage] = json.loads((tmp_path / "x.json").read_text())
    # Five texts in 16 dimensions.
    assert figures[0]["between"]["pairs/kl"] is None
    assert figures[0]["between"]["pairs/cka"] == figures[0.5]["between"]["pairs/cka"]
    x, y = (unit(rows.astype(np.float64)) for rows in (embeddings, encoder.encode(list(TEXTS))))
    p, q = (
        stats.Covariance.from_eigendecomposition(
            np.linalg.eigh(0.5 * np.cov(rows.T) + 0.5 * np.eye(16) * np.trace(np.cov(rows.T)) / 16)
        )
        for rows in (x, y)
    )
    d = x.mean(0) - y.mean(0)
    kl = np.trace(np.linalg.solve(q.covariance, p.covariance)) - 16
    kl += d @ np.linalg.solve(q.covariance, d) + q.log_pdet - p.log_pdet
    assert figures[0.5]["between"]["pairs/kl"] == pytest.approx(kl / 2, rel=1e-3)
    scores, others = figures[0]["scores"], figures[0]["other_scores"]
    assert list(scores) == list(others) and scores["pairs/uniformity"] != others["pairs/uniformity"]
    status, _, err = simjax(*arguments, "--shrinkage", "2")
    assert (status, "--shrinkage 2: give a number from 0 to 1" in err) == (2, True)
    status, _, err = simjax(*arguments[:4], "--shrinkage", "0.5")
    assert (status, "--compare, which is not given" in err) == (2, True)
    status, out, _ = simjax(*arguments[:5], model_folder, "--plot", tmp_path / "x.png")
    assert status == 0 and "(again)" in out


def test_evaluate_classification_and_labelled_pairs(simjax, model_folder, tmp_path) -> None:
    folder = tmp_path / "en" / "transfer"
    folder.mkdir(parents=True)
    rows = [f"{TEXTS[i % 5]} {i}\t{'animal' if i % 5 != 2 else 'sun'}" for i in range(40)]
    for name, part in (("mr", rows), ("trec_train", rows[:30]), ("trec_test", rows[30:])):
        (folder / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *part]))
    pairs = tmp_path / "zh" / "lcqmc"
    pairs.mkdir(parents=True)
    header = "sentence1\tsentence2\tlabel"
    (pairs / "dev.tsv").write_text(f"{header}\na\tb\t0\nb\tb\t1\nc\tb\t0\n")
    both = f"{folder / 'trec_train.tsv'}:{folder / 'trec_test.tsv'}"
    status, out, _ = simjax(
        *("evaluate", model_folder, "--root", tmp_path, "--tasks", "mr", "trec", "lcqmc-dev"),
        *("--classification", both, "--logistic", "--json", tmp_path / "x.json"),
    )
    assert status == 0 and "accuracy_logistic" in out
    scores = json.loads((tmp_path / "x.json").read_text())["scores"]
    for name in ("accuracy", "accuracy_logistic"):
        assert 50 < scores[f"mr/{name}"] <= 100
        assert scores[f"trec/{name}"] == scores[f"trec_train/{name}"]
    assert "lcqmc-dev/spearman" in scores
    status, _, err = simjax("evaluate", model_folder, "--root", tmp_path, "--tasks", "transfer")
    assert status == 1 and "en/transfer/cr.tsv: no such file" in err


def test_evaluate_the_first_dimensions(simjax, model_folder, embeddings, tmp_path) -> None:
    pairs, classes, beir = tmp_path / "pairs.tsv", tmp_path / "classes.tsv", tmp_path / "beir"
    gold = [5.0, 1.0, 3.0, 4.5]
    rows = [f"{TEXTS[i]}\t{TEXTS[i + 1]}\t{gold[i]}" for i in range(4)]
    pairs.write_text("\n".join(["sentence1\tsentence2\tscore", *rows]))
    rows = [f"{TEXTS[i % 5]}\t{'animal' if i % 5 != 2 else 'sun'}" for i in range(40)]
    classes.write_text("\n".join(["sentence\tlabel", *rows]))
    beir.mkdir()
    (beir / "corpus.jsonl").write_text(json.dumps({"_id": "1", "title": "", "text": TEXTS[0]}))
    (beir / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": TEXTS[1]}))
    (beir / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t1\n")
    encoder = SentenceEncoder.from_pretrained(model_folder, pooling="max", normalize=True)
    other = encoder.save_pretrained(tmp_path / "other")
    arguments = ["evaluate", model_folder, "--sts", pairs, "--classification", classes]
    arguments += ["--retrieval", beir, "--compare", other, "--json", tmp_path / "x.json"]
    assert simjax(*arguments).status == 0
    assert "truncate_dim" not in json.loads((tmp_path / "x.json").read_text())
    assert simjax(*arguments, "--truncate_dim", 3).status == 0
    figures = json.loads((tmp_path / "x.json").read_text())
    assert figures["truncate_dim"] == 3

    found = []
    for whole, scores in ((embeddings, "scores"), (encoder.encode(list(TEXTS)), "other_scores")):
        x = unit(whole[:, :3].astype(np.float64))
        found.append(x - x.mean(0))
        pearson = stats.pearsonr(np.sum(x[:4] * x[1:], axis=1), gold).statistic
        squares = ((x[:, None] - x) ** 2).sum(-1)
        uniformity = np.log(np.exp(-2 * squares[~np.eye(5, dtype=bool)]).mean())
        expected = {
            "pairs/pearson": 100 * pearson,
            "classes/uniformity": uniformity,
            "beir/alignment": squares[0, 1],
        }
        for name, value in expected.items():
            assert figures[scores][name] == pytest.approx(value, rel=1e-3), name
    x, y = found
    cka = np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    assert figures["between"]["pairs/cka"] == pytest.approx(cka, rel=1e-3)
    status, _, err = simjax(*arguments, "--truncate_dim", 17)
    assert (status, err) == (2, "simjax: truncate_dim 17: embeddings have 16 dimensions\n")
    status, _, err = simjax(*arguments, "--truncate_dim", 0)
    assert (status, "'0' is not a whole number of at least 1" in err) == (2, True)
