import hashlib
import math

import numpy as np
import pytest

from simjax.errors import SimjaxError, UsageError
from simjax.eval import tasks as tasks_module
from simjax.eval.retrieval import RetrievalSet
from simjax.eval.tasks import (
    EvalConfig,
    Task,
    Tasks,
    baseline,
    evaluate,
    higher_is_better,
    load,
    metric_names,
    prepare,
    run,
    task_name,
)


def hashed(texts):
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) for text in texts]
    return np.stack([np.random.default_rng(seed).normal(size=6) for seed in seeds])


@pytest.fixture
def root(tmp_path):
    for folder, names in (("sts", ("a", "b")), ("stsb", ("dev",))):
        (tmp_path / folder).mkdir()
        for name in names:
            rows = [f"{name} {i}\t{name} {i * 7 % 5}\t{i % 6}\n" for i in range(12)]
            (tmp_path / folder / f"{name}.tsv").write_text(
                "sentence1\tsentence2\tscore\n" + "".join(rows)
            )
    beir = tmp_path / "beir"
    beir.mkdir()
    (beir / "corpus.jsonl").write_text('{"_id": "1", "text": "cat"}\n{"_id": "2", "text": "dog"}\n')
    (beir / "queries.jsonl").write_text('{"_id": "1", "text": "dog"}\n')
    (beir / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n1\t2\t1\n")
    return tmp_path


CONFIG = EvalConfig(
    tasks=(Task("sts", "sts"), Task("sts", "stsb/dev.tsv"), Task("retrieval", "beir")),
    metric="stsb-dev/spearman",
)


def test_names_are_known_before_anything_runs(root):
    tasks = load(CONFIG, root)
    scores = run(tasks, hashed)
    assert list(scores) == metric_names(tasks)
    assert {"sts/spearman", "sts/spearman_mean", "sts/a/spearman", "beir/ndcg@10"} <= set(scores)
    assert "stsb-dev/spearman_mean" not in scores  # one file has no subsets to average
    assert all(math.isfinite(value) for value in scores.values())


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (Task("sts", "en/sts12"), "sts12"),
        (Task("sts", "en/stsb/dev.tsv"), "stsb-dev"),
        (Task("sts", "x/test.tsv.gz"), "x-test"),
        (Task("sts", "pairs.tsv"), "pairs"),
        (Task("builtin"), "builtin"),
        (Task("sts", "en/sts12", name="mine"), "mine"),
    ],
)
def test_names_come_from_paths(task, name):
    assert task_name(task) == name


def test_geometry_is_over_distinct_texts_and_positives_above_the_threshold(root):
    tasks = load(CONFIG, root)
    scores = run(tasks, hashed)
    texts = list(dict.fromkeys(t for i in range(12) for t in (f"dev {i}", f"dev {i * 7 % 5}")))
    x = hashed(texts)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    square = ((x[:, None] - x[None]) ** 2).sum(-1)
    upper = np.triu_indices(len(x), 1)
    expected = math.log(np.exp(-2 * square[upper]).mean())
    assert scores["stsb-dev/uniformity"] == pytest.approx(expected, rel=1e-5)
    near = [
        square[texts.index(f"dev {i}"), texts.index(f"dev {i * 7 % 5}")]
        for i in range(12)
        if i % 6 > 4
    ]
    assert scores["stsb-dev/alignment"] == pytest.approx(np.mean(near), rel=1e-5)


def test_each_distinct_text_is_encoded_once(root):
    seen = []

    def encode(texts):
        seen.extend(texts)
        return hashed(texts)

    scores = run(load(EvalConfig((Task("retrieval", "beir"),)), root), encode)
    assert seen == ["dog", "cat"]
    assert scores["beir/recall@1"] == 100.0
    assert scores["beir/alignment"] == 0.0


def test_queries_and_documents_are_encoded_apart_where_they_differ(root):
    seen = {"query": [], "document": []}

    def side(name):
        def encode(texts):
            seen[name].extend(texts)
            return hashed([f"{name}: {text}" for text in texts])

        return encode

    tasks = load(CONFIG, root)
    scores = run(tasks, hashed, sides=(side("query"), side("document")))
    # A text that is both is embedded as both.
    assert seen == {"query": ["dog"], "document": ["dog", "cat"]}
    query, *documents = hashed(["query: dog", "document: cat", "document: dog"])
    cosines = [query @ one / np.linalg.norm(query) / np.linalg.norm(one) for one in documents]
    assert scores["beir/recall@1"] == (100.0 if cosines[1] > cosines[0] else 0.0)
    assert scores["beir/alignment"] == pytest.approx(2 - 2 * cosines[1], rel=1e-5)
    assert list(scores) == metric_names(tasks)
    alike = run(tasks, hashed)
    assert scores["stsb-dev/spearman"] == alike["stsb-dev/spearman"]
    assert run(tasks, hashed, sides=(hashed, hashed))["beir/ndcg@10"] == alike["beir/ndcg@10"]


def test_uniformity_of_large_sets_is_sampled(root, monkeypatch):
    monkeypatch.setattr(tasks_module, "GEOMETRY_TEXTS", 2)
    rows = []
    original = tasks_module.align_uniform
    monkeypatch.setattr(
        tasks_module, "align_uniform", lambda x, **o: rows.append(len(x)) or original(x, **o)
    )
    run(load(CONFIG, root), hashed)
    assert rows == [2, 2, 2]


def test_baseline_has_the_names_of_run(root):
    tasks = load(CONFIG, root)
    found = baseline(tasks)
    assert found["beir/mrr@10"] == 100.0
    assert set(found) < set(metric_names(tasks))
    assert all(name.startswith("beir/") and "alignment" not in name for name in found)


def test_spectra_come_with_the_results(root):
    results = evaluate(load(CONFIG, root), hashed)
    assert list(results.spectra) == ["sts", "stsb-dev", "beir"]
    assert results.spectra["sts"].shape == (6,)


def test_configuration_errors(root):
    with pytest.raises(UsageError, match="did you mean 'stsb-dev/spearman'"):
        load(EvalConfig(CONFIG.tasks, metric="stsb-dev/spearmann"), root)
    with pytest.raises(UsageError, match="two evaluation tasks are named 'sts'"):
        load(EvalConfig((Task("sts", "sts"), Task("sts", "sts"))), root)
    with pytest.raises(UsageError, match="give it a path"):
        load(EvalConfig((Task("sts"),)), root)
    with pytest.raises(UsageError, match="no evaluation tasks"):
        load(EvalConfig(metric="stsb-dev/spearman"), root)
    with pytest.raises(SimjaxError, match="no such file"):
        load(EvalConfig((Task("sts", "absent.tsv"),)), root)


def test_broken_encoders_are_named(root):
    tasks = load(CONFIG, root)
    with pytest.raises(SimjaxError, match=r"sts: .* are not finite"):
        run(tasks, lambda texts: np.full((len(texts), 2), np.nan))
    with pytest.raises(SimjaxError, match="sts: the encoder returned 1 embeddings"):
        run(tasks, lambda texts: np.ones((1, 2)))


def test_direction_of_scores():
    assert higher_is_better("stsb-dev/spearman") and higher_is_better("x/effective_rank")
    assert not higher_is_better("x/alignment") and not higher_is_better("x/uniformity")


def test_a_set_of_one_text_has_alignment_alone():
    data = RetrievalSet(["same"], ["same"], [{0: 1.0}])
    tasks = Tasks((prepare("tiny", data, EvalConfig()),), EvalConfig())
    scores = run(tasks, hashed)
    assert list(scores) == metric_names(tasks)
    assert scores["tiny/alignment"] == 0.0 and "tiny/uniformity" not in scores


def test_classification_tasks(root):
    rows = [f"{'good' if i % 2 else 'bad'} {i}\t{i % 2}\n" for i in range(40)]
    (root / "films.tsv").write_text("sentence\tlabel\n" + "".join(rows))
    (root / "test.tsv").write_text("sentence\tlabel\n" + "".join(rows[:5]))
    config = EvalConfig(
        (
            Task("classification", "films.tsv"),
            Task("classification", "films.tsv", "split", test="test.tsv"),
        ),
        metric="films/accuracy",
        logistic=True,
    )

    def encode(texts):
        return np.array([[text.startswith("good"), 0.5, len(text)] for text in texts])

    tasks = load(config, root)
    scores = run(tasks, encode)
    assert list(scores) == metric_names(tasks)
    assert scores["films/accuracy"] == scores["split/accuracy_logistic"] == 100.0
    assert "films/uniformity" in scores and "films/alignment" not in scores
    quick = load(EvalConfig(config.tasks), root)
    assert "films/accuracy_logistic" not in metric_names(quick)
    assert higher_is_better("films/accuracy")
    with pytest.raises(UsageError, match=r"sts: test is for tasks of kind classification"):
        load(EvalConfig((Task("sts", "sts", test="test.tsv"),)), root)
    with pytest.raises(UsageError, match=r"sts: qrels is for tasks of kind retrieval"):
        load(EvalConfig((Task("sts", "sts", qrels="test.tsv"),)), root)


def test_labelled_pairs_are_correlated_and_those_with_1_are_positives(root):
    rows = [f"dev {i}\tdev {i * 7 % 5}\t{i % 2}\n" for i in range(12)]
    (root / "pairs.tsv").write_text("sentence1\tsentence2\tlabel\n" + "".join(rows))
    tasks = load(EvalConfig((Task("sts", "pairs.tsv"),)), root)
    assert tasks.loaded[0].positives.tolist() == tasks.loaded[0].data.pairs[1::2].tolist()
    scores = run(tasks, hashed)
    assert math.isfinite(scores["pairs/spearman"]) and "pairs/alignment" in scores


def test_embeddings_are_kept_where_they_are_asked_for(root):
    tasks = load(CONFIG, root)
    assert evaluate(tasks, hashed).embeddings == {}
    found = evaluate(tasks, hashed, keep=True).embeddings
    assert list(found) == ["sts", "stsb-dev", "beir"]
    np.testing.assert_allclose(np.linalg.norm(found["sts"], axis=1), 1, rtol=1e-6)
