"""`simjax train` called with what it cannot use: a status, one line, and nothing lost."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simjax.cli.main import main
from simjax.models.tokenizer import load_tokenizer
from simjax.train import config as run_config
from simjax.train import folder
from simjax.train.config import ModelConfig, RunConfig, TokenizerConfig
from simjax.train.setup import set_up
from tests.tiny_models import write_folder
from tests.train.tiny_run import BATCH, BLOCK, EXAMPLES, config_for, recipe


@pytest.fixture
def refusal(tmp_path, capfd) -> Callable[..., str]:
    """Trains by a configuration in vain and returns the complaint."""

    def call(config: RunConfig, status: int, *overrides: str) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(run_config.dump(config), encoding="utf-8")
        capfd.readouterr()
        assert main(["train", str(path), *overrides]) == status
        captured = capfd.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.startswith("simjax: ")
        return line

    return call


def with_data(config: RunConfig, **changes: Any) -> RunConfig:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("--seed=1", "seed (0 there, 1 here)"),
        ("--objective.temperature=0.1", "objective.temperature (0.05 there, 0.1 here)"),
        ("--data.seed=5", "data.seed (0 there, 5 here)"),
        ("--train.epochs=2", "steps (12 there, 6 here)"),
        ("--data.source.negatives=[]", "token_store"),
    ],
)
def test_the_folder_of_another_run_is_left_as_it_is(data, whole, tmp_path, refusal, override, key):
    output = tmp_path / "run"
    shutil.copytree(whole[0].output, output)
    before = contents(output)
    line = refusal(dataclasses.replace(whole[0], output=str(output)), 1, override)
    assert f"{output}/checkpoints/run.json: " in line and key in line
    assert "choose another output" in line
    assert contents(output) == before


def test_a_folder_with_other_files_is_left_as_it_is(data, tmp_path, refusal):
    output = tmp_path / "papers"
    output.mkdir()
    (output / "thesis.tex").write_text("years of work")
    line = refusal(config_for(data, output), 1)
    assert f"{output}: holds files that are not of a run" in line and "output" in line
    assert contents(output).keys() == {"thesis.tex"}


def test_an_output_that_is_a_file(data, tmp_path, refusal):
    output = tmp_path / "run"
    output.write_text("")
    assert f"{output}: cannot be the output folder" in refusal(config_for(data, output), 1)


def test_what_only_resembles_a_run_is_left_as_it_is(data, tmp_path, refusal):
    output = tmp_path / "project"
    (output / "checkpoints" / "500").mkdir(parents=True)
    (output / "tokenizer").mkdir()
    for name in ("config.yaml", "tokenizer/vocab.txt", "checkpoints/500/model.bin"):
        (output / name).write_text("years of work")
    before = contents(output)
    config = config_for(data, output, tokenizer=TokenizerConfig("train", 300))
    assert f"{output}: holds files that are not of a run" in refusal(config, 1)
    assert contents(output) == before


def test_an_export_that_outlived_its_checkpoints_is_left_as_it_is(whole, tmp_path, refusal):
    output = tmp_path / "run"
    shutil.copytree(whole[0].output, output)
    shutil.rmtree(output / "checkpoints")
    before = contents(output)
    line = refusal(dataclasses.replace(whole[0], output=str(output)), 1)
    assert f"{output}: holds the export of a run whose checkpoints are gone" in line
    assert contents(output) == before


def test_one_run_at_a_time_trains_in_a_folder(whole, tmp_path, refusal):
    output = tmp_path / "run"
    shutil.copytree(whole[0].output, output)
    before = contents(output)
    with folder.locked(output):
        line = refusal(dataclasses.replace(whole[0], output=str(output)), 1)
    assert f"{output}: another process is training in this folder" in line
    assert contents(output) == before
    with folder.locked(output):  # nothing holds it any more
        pass


@pytest.mark.parametrize("left", ["tokenizer.partial", "tokenizer", "checkpoints", "config.yaml"])
def test_a_folder_that_a_run_was_cut_off_in_is_taken_up_again(tmp_path, left):
    with folder.locked(tmp_path):
        (tmp_path / left).mkdir()
    assert folder.open_folder(str(tmp_path)) == tmp_path


def test_a_home_folder_is_found(monkeypatch, data, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = config_for(data, Path("~/run"), tokenizer=TokenizerConfig("train", 300))
    assert folder.open_folder(config.output) == tmp_path / "run"
    set_up(config)
    assert (tmp_path / "run" / "tokenizer" / "tokenizer.json").exists()
    assert not (tmp_path / "~").exists()


def test_fewer_examples_than_a_batch(data, tmp_path, refusal):
    config = with_data(config_for(data, tmp_path / "run"), batch_size=128)
    line = refusal(config, 1)
    assert f"{EXAMPLES} examples" in line and "128" in line and "data.batch_size" in line


def test_a_batch_that_does_not_divide_by_the_devices(data, tmp_path, refusal):
    config = with_data(config_for(data, tmp_path / "run"), batch_size=BATCH - BLOCK)
    line = refusal(config, 2)
    assert "data.batch_size 30" in line and "8 devices" in line


def test_groups_of_negatives_that_lie_on_several_devices(data, tmp_path, refusal):
    line = refusal(config_for(data, tmp_path / "run"), 2, "--objective.negative_group=8")
    assert "objective.negative_group: 8 does not divide the 4 examples that each device has" in line


def test_a_tokenizer_that_does_not_fit_the_weights(data, tmp_path, refusal):
    model = write_folder(tmp_path / "model", "bert", layers=1)
    config = config_for(data, tmp_path / "run", model=ModelConfig(pretrained=str(model)))
    line = refusal(config, 1)
    assert "30 tokens" in line and "rows" in line and "tokenizer" in line


def test_a_tokenizer_that_numbers_tokens_in_another_way(data, tmp_path, refusal):
    """As many tokens as the weights have rows, under other ids: a cased vocabulary, say."""
    model = write_folder(tmp_path / "model", "bert", layers=1)
    tokens = load_tokenizer(model).get_vocab()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    rest = sorted(set(tokens) - set(special), key=tokens.__getitem__, reverse=True)
    (tmp_path / "other.txt").write_text("\n".join(special + rest) + "\n")
    config = config_for(data, tmp_path / "run", model=ModelConfig(pretrained=str(model)))
    config = dataclasses.replace(config, tokenizer=TokenizerConfig(str(tmp_path / "other.txt")))
    line = refusal(config, 1)
    assert f"other ids than the tokenizer in {model}" in line and "tokenizer.source" in line


def test_texts_longer_than_a_pretrained_encoder_allows(data, tmp_path, refusal):
    model = write_folder(tmp_path / "model", "bert", layers=1)
    config = config_for(data, tmp_path / "run", model=ModelConfig(pretrained=str(model)))
    config = dataclasses.replace(config, tokenizer=TokenizerConfig(str(model)))
    line = refusal(with_data(config, max_length=1024, row_length=1024), 2)
    assert f"data.max_length is 1024 and {model} has " in line and "positions" in line


def test_equal_views_from_a_pretrained_encoder_without_dropout(data, tmp_path, refusal):
    model = write_folder(tmp_path / "model", "bert", layers=1)
    shape = json.loads((model / "config.json").read_text())
    shape |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (model / "config.json").write_text(json.dumps(shape))
    config = config_for(data, tmp_path / "run", model=ModelConfig(pretrained=str(model)))
    source = dataclasses.replace(config.data.source, positives=(), negatives=())
    config = dataclasses.replace(config, tokenizer=TokenizerConfig(str(model)))
    line = refusal(with_data(config, views="dropout", source=source), 2)
    assert f"the dropout of {model} is 0" in line and "model.dropout" in line


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("--objective.temprature=0.1", "objective.temperature"),
        ("--trian.steps=3", "train"),
    ],
)
def test_an_unknown_key(data, tmp_path, refusal, override, suggestion):
    line = refusal(config_for(data, tmp_path / "run"), 2, override)
    assert override.partition("=")[0] in line and suggestion in line
    assert not (tmp_path / "run").exists()


def test_data_and_evaluation_that_are_not_there(data, tmp_path, refusal):
    config = with_data(recipe(data, tmp_path / "run"), root=str(tmp_path / "nowhere"))
    line = refusal(config, 1)
    assert str(tmp_path / "nowhere") in line


def test_after_the_mend_the_same_folder_serves(data, tmp_path, refusal):
    """A vocabulary that was learned in vain is not mistaken for the one asked for now."""
    config = config_for(data, tmp_path / "run", tokenizer=TokenizerConfig("train", 300))
    refusal(with_data(config, batch_size=128), 1)
    first = set_up(config)
    fewer = dataclasses.replace(config, tokenizer=TokenizerConfig("train", 60))
    second = set_up(fewer)
    assert second.model.config.vocab_size < first.model.config.vocab_size

    # Once there is a checkpoint, the vocabulary belongs to it.
    (tmp_path / "run" / "checkpoints" / "3").mkdir(parents=True)
    again = set_up(fewer)
    assert again.identity == second.identity
    third = set_up(config)
    assert third.model.config.vocab_size == second.model.config.vocab_size
    assert third.identity["vocab_size"] == 300 != again.identity["vocab_size"]
