"""The way of a run through the commands: train, go on, export, use."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from simjax.processes import drafts
from simjax.sentence_encoder import SentenceEncoder

from .conftest import TEXTS

RECIPE = """\
tokenizer: {source: train, vocab_size: 256}
model:
  encoder: {hidden_size: 16, num_layers: 1, num_heads: 2, intermediate_size: 32}
data: {batch_size: 16, block_size: 2, row_length: 32, max_length: 16}
optimizer: {learning_rate: 1e-2}
train: {steps: 2, log_every: 1}
checkpoint: {every: 1, keep: 2}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data file and a finished run on it."""
    from simjax.cli.main import main

    folder = tmp_path_factory.mktemp("run")
    rows = [f"{TEXTS[i % 5]} {i},{TEXTS[(i + 1) % 5]} {i}" for i in range(40)]
    (folder / "pairs.csv").write_text("\n".join(["anchor,positive", *rows]), encoding="utf-8")
    recipe = folder / "recipe.yaml"
    recipe.write_text(f"output: {folder / 'run'}\n{RECIPE}", encoding="utf-8")
    arguments = ["train", recipe, "--data.source.path", folder / "pairs.csv"]
    arguments += ["--data.cache", folder / "cache", "--json", folder / "scores.json"]
    assert main([str(argument) for argument in arguments]) == 0
    return folder


def test_train_leaves_a_run(folder: Path) -> None:
    assert json.loads((folder / "scores.json").read_text())["steps"] == 2
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines][-2:] == [1, 2]
    assert (folder / "run" / "export" / "modules.json").is_file()


def test_a_run_is_a_model(simjax, folder: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(TEXTS), encoding="utf-8")
    status, out, _ = simjax("search", folder / "run", corpus, TEXTS[2], "--top_k", 1)
    assert status == 0
    assert out.splitlines()[1].endswith(TEXTS[2])


def test_export_takes_a_checkpoint(simjax, folder: Path, tmp_path: Path) -> None:
    run = folder / "run"
    assert (
        simjax("export", run, tmp_path / "last").out
        == f"{tmp_path / 'last'}: the model of step 2\n"
    )
    assert simjax("export", run, tmp_path / "first", "--step", 1).status == 0
    finished, last, first = (
        SentenceEncoder.from_pretrained(path).encode(TEXTS)
        for path in (run, tmp_path / "last", tmp_path / "first")
    )
    np.testing.assert_allclose(last, finished, atol=1e-6)
    assert np.abs(first - last).max() > 1e-3


def test_export_only_reads_a_run_that_has_just_begun(simjax, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(folder / "run" / "config.yaml", run)
    status, _, err = simjax("export", run, tmp_path / "x")
    assert status == 1 and f"{run}: has no checkpoint yet" in err
    assert [path.name for path in run.iterdir()] == ["config.yaml"]  # no tokenizer was learned


def test_the_card_does_not_tell_where_things_lie(folder: Path) -> None:
    card = (folder / "run" / "export" / "README.md").read_text()
    assert "pairs.csv" in card
    assert str(folder) not in card


def test_export_refuses(simjax, folder: Path, model_folder: Path, tmp_path: Path) -> None:
    run = folder / "run"
    status, _, err = simjax("export", run, tmp_path / "x", "--step", 7)
    assert status == 1 and "7" in err and "1, 2" in err
    assert not (tmp_path / "x").exists()
    status, _, err = simjax("export", model_folder, tmp_path / "x", "--step", 1)
    assert status == 2 and "no run folder" in err
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine.txt").write_text("kept")
    status, _, err = simjax("export", run, tmp_path / "x", "--overwrite")
    assert status == 1 and str(tmp_path / "x") in err
    assert (tmp_path / "x" / "mine.txt").read_text() == "kept"
    assert simjax("export", tmp_path / "absent", tmp_path / "y").status == 1


def test_export_takes_any_model(simjax, model_folder: Path, tmp_path: Path) -> None:
    assert simjax("export", model_folder, tmp_path / "x").status == 0
    assert simjax("export", model_folder, tmp_path / "x").status == 1
    assert simjax("export", model_folder, tmp_path / "x", "--overwrite").status == 0
    np.testing.assert_allclose(
        SentenceEncoder.from_pretrained(tmp_path / "x").encode(TEXTS),
        SentenceEncoder.from_pretrained(model_folder).encode(TEXTS),
        atol=1e-6,
    )


def test_a_run_is_not_gone_on_with_as_another(simjax, folder: Path) -> None:
    status, _, err = simjax(
        "train",
        folder / "recipe.yaml",
        "--data.source.path",
        folder / "pairs.csv",
        "--data.cache",
        folder / "cache",
        "--objective.temperature",
        "0.1",
    )
    assert status == 1
    assert "objective.temperature" in err and err.splitlines()[-1].startswith("simjax: ")


def test_export_brings_back_what_a_killed_one_had_moved_aside(
    simjax, model_folder, tmp_path
) -> None:
    folder = tmp_path / "x"
    assert simjax("export", model_folder, folder).status == 0
    draft = drafts.draft_of(folder)
    folder.rename(draft.with_name(draft.name.replace("partial", "old")))
    # It is what is read as well.
    assert simjax("export", folder, folder, "--overwrite").status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
