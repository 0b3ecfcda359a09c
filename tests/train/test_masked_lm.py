"""Runs that learn masked tokens beside the contrastive objective."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

from simjax.errors import UsageError
from simjax.objectives.config import ContrastiveConfig, MaskedLmConfig
from simjax.sentence_encoder import SentenceEncoder
from simjax.train import loop
from simjax.train.config import ModelConfig, TokenizerConfig
from simjax.train.setup import set_up
from tests.train.tiny_run import (
    STOPPED,
    TOTAL,
    StopAfter,
    assert_same_bits,
    config_for,
    figures,
    recipe,
    state_at,
    train,
)

OBJECTIVE = ContrastiveConfig(mlm=MaskedLmConfig(weight=1.0, rate=0.3))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    config = recipe(data, tmp_path_factory.mktemp("mlm") / "run", objective=OBJECTIVE)
    train(config)
    return config


@pytest.mark.slow
def test_the_head_learns_and_is_not_exported(whole):
    steps = [line for line in figures(Path(whole.output)) if "mlm_loss" in line]
    assert len(steps) == TOTAL
    early, late = (np.mean([s["mlm_loss"] for s in part]) for part in (steps[:3], steps[-3:]))
    assert late < early - 0.05
    assert all(0 <= step["mlm_accuracy"] <= 1 for step in steps)
    assert "lm_head" in state_at(whole).params
    texts = ["balan cemer dinis", "fopot guruk"]
    ours = SentenceEncoder.from_pretrained(whole.output).encode(texts)
    theirs = SentenceTransformer(f"{whole.output}/export", device="cpu").encode(texts)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_with_the_same_bits(data, tmp_path, whole, monkeypatch):
    config = dataclasses.replace(whole, output=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopRequest", StopAfter)
        assert train(config)["steps"] == STOPPED
    train(config)
    assert_same_bits(state_at(config), state_at(whole))


def test_it_starts_from_the_folder_s_own_head(data, tmp_path):
    tokenizer = BertTokenizerFast(vocab=str(data / "vocab.txt"))
    shape = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    peer = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer), num_hidden_layers=1, max_position_embeddings=16, **shape
        )
    )
    peer.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    config = config_for(
        data,
        tmp_path / "run",
        objective=OBJECTIVE,
        model=ModelConfig(pretrained=str(tmp_path / "bert")),
        tokenizer=TokenizerConfig(),
    )
    (tmp_path / "run").mkdir()
    run = set_up(config)
    head = jax.tree.map(np.asarray, run.params["lm_head"])
    transform = peer.cls.predictions.transform
    np.testing.assert_array_equal(head["dense"]["kernel"].T, transform.dense.weight.detach())
    np.testing.assert_array_equal(head["bias"], peer.cls.predictions.bias.detach())


def test_a_random_head_is_no_copy_of_the_encoder(data, tmp_path):
    (tmp_path / "run").mkdir()
    params = set_up(config_for(data, tmp_path / "run", objective=OBJECTIVE)).params
    kernel = np.asarray(params["lm_head"]["dense"]["kernel"])
    table = np.asarray(params["model"]["encoder"]["embeddings"]["word"]["embedding"])
    assert np.abs(np.corrcoef(kernel.ravel(), table[:16].ravel())[0, 1]) < 0.3


def test_a_head_alone_is_not_trained(data, tmp_path):
    """It is not exported, so that nothing would come of it."""
    config = config_for(data, tmp_path / "run", objective=OBJECTIVE)
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, freeze=("encoder.*",))
    )
    with pytest.raises(UsageError, match="no parameter of the encoder is left to train"):
        train(config)


def test_a_tokenizer_without_a_mask_is_refused(data, tmp_path):
    words = (data / "vocab.txt").read_text().replace("[MASK]\n", "")
    (tmp_path / "vocab.txt").write_text(words)
    tokenizer = BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"), mask_token=None)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    config = config_for(
        data,
        tmp_path / "run",
        objective=OBJECTIVE,
        tokenizer=TokenizerConfig(source=str(tmp_path / "tokenizer")),
    )
    with pytest.raises(UsageError, match=r"objective\.mlm is given and the tokenizer has no mask"):
        train(config)
