"""encode, index, search: each from what the one before wrote."""

import json
from pathlib import Path

import numpy as np
import pytest

from simjax.sentence_encoder import SentenceEncoder

from .conftest import TEXTS

SEARCH = ("a dog", "the cat sleeps")


@pytest.fixture(scope="module")
def files(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Texts with an empty line, and their embeddings."""
    folder = tmp_path_factory.mktemp("files")
    lines = [TEXTS[0], "", *TEXTS[1:]]
    (folder / "x.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    from simjax.inference.bulk import encode_to_file

    encoder = SentenceEncoder.from_pretrained(model_folder)
    encode_to_file(encoder, lines, folder / "x.safetensors")
    return folder / "x.txt", folder / "x.safetensors"


@pytest.mark.parametrize("kind", ["exact", "int8", "binary", "faiss-flat"])
def test_search_in_an_index_is_search_in_its_texts(
    simjax, model_folder, files, tmp_path, kind
) -> None:
    texts, embeddings = files
    index = tmp_path / "index"
    status, out, _ = simjax("index", embeddings, index, "--texts", texts, "--kind", kind)
    assert status == 0
    assert out.startswith(f"{index}: {kind}, 5 embeddings of width 16, ")
    (tmp_path / "q.txt").write_text(f"\n{SEARCH[1]}\n")
    options = ("--queries", tmp_path / "q.txt", "--top_k", 3, "--json")
    found = {}
    for corpus in (texts, index):
        arguments = (corpus, SEARCH[0], *options, tmp_path / "x.json")
        assert simjax("search", model_folder, *arguments).status == 0
        found[corpus] = json.loads((tmp_path / "x.json").read_text())["queries"]
    assert [entry["query"] for entry in found[index]] == list(SEARCH)
    for mine, other in zip(found[index], found[texts], strict=True):
        for hit, expected in zip(mine["hits"], other["hits"], strict=True):
            assert (hit["line"], hit["text"]) == (expected["line"], expected["text"])
            assert hit["score"] == pytest.approx(expected["score"], abs=1e-5)


def test_search_without_texts_gives_lines(simjax, model_folder, files, tmp_path) -> None:
    assert simjax("index", files[1], tmp_path / "i").status == 0
    status, out, _ = simjax("search", model_folder, tmp_path / "i", TEXTS[1], "--top_k", 1)
    assert status == 0
    assert out.splitlines()[1].split() == ["1", "1.0000", "3"]
    prompted = simjax("search", model_folder, tmp_path / "i", "asleep", "--prompt", "the cat is ")
    assert prompted.out.splitlines()[1].split()[1:] == ["1.0000", "6"]


def test_index_measures_recall(simjax, tmp_path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(60, 16)).astype("f4"))
    status, out, _ = simjax(
        "index",
        tmp_path / "x.npy",
        tmp_path / "i",
        *("--kind", "binary", "--codes_only", "--recall", 20, "--json", tmp_path / "x.json"),
    )
    assert status == 0
    figures = json.loads((tmp_path / "x.json").read_text())
    assert set(figures["recall"]) == {"recall@1", "recall@10"}
    assert 0 < figures["recall"]["recall@10"] < 1
    assert f"recall@10  {figures['recall']['recall@10']:.4f}" in out
    assert figures["rows"] == 60 and figures["bytes"] < 60 * 64


def test_index_and_search_refuse(simjax, model_folder, files, tmp_path) -> None:
    texts, embeddings = files
    assert simjax("index", embeddings, tmp_path / "i").status == 0
    np.save(tmp_path / "narrow.npy", np.ones((3, 4), np.float32))
    assert simjax("index", tmp_path / "narrow.npy", tmp_path / "n").status == 0
    codes = ("--kind", "int8", "--codes_only")
    assert simjax("index", embeddings, tmp_path / "codes", *codes).status == 0
    cases = [
        (("index", embeddings, tmp_path / "i"), 1, "--overwrite replaces it"),
        (("index", embeddings, tmp_path / "j", "--codes_only"), 2, "exact has no codes"),
        (("index", texts, tmp_path / "j"), 2, "must end in .npy"),
        (("search", model_folder, tmp_path / "i"), 2, "give a QUERY"),
        (("search", model_folder, tmp_path, "x"), 1, "is no index"),
        (("index", embeddings, tmp_path / "j", "--recall", 5), 2, "--recall: it is measured bes"),
        (("search", model_folder, tmp_path / "codes", "x", "--rescore", 2), 2, "no embeddings to"),
        (("search", model_folder, tmp_path / "i", ""), 2, "QUERY: one is empty"),
        (("search", model_folder, texts, "x", "--rescore", 2), 2, "--rescore: "),
        (("search", model_folder, tmp_path / "n", "x"), 2, "4 dimensions, the queries would have"),
        (("search", model_folder, tmp_path / "i", "x", "--truncate_dim", 4), 2, "16 dimensions"),
    ]
    for arguments, status, names in cases:
        outcome = simjax(*arguments)
        assert (outcome.status, outcome.err.count("\n")) == (status, 1), outcome
        assert names in outcome.err
    narrow = simjax("search", model_folder, tmp_path / "n", "x", "--truncate_dim", 4)
    assert narrow.status == 0
    about = json.loads((tmp_path / "i" / "index.json").read_text())
    (tmp_path / "i" / "index.json").write_text(json.dumps(about | {"model": "0" * 32}))
    status, _, err = simjax("search", model_folder, tmp_path / "i", "x")
    assert status == 1 and "are of another model than" in err
