"""Runs that learn to write a text's paraphrase with the encoder that embeds it."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from sentence_transformers import SentenceTransformer

from simjax import mesh as meshes
from simjax.checkpoint.config import CheckpointConfig
from simjax.data.sources import Source
from simjax.errors import UsageError
from simjax.eval.tasks import EvalConfig, Task
from simjax.mesh import MeshConfig
from simjax.models import hf, names
from simjax.models.encoder import EncoderConfig
from simjax.models.lm_head import LanguageModelHead
from simjax.models.sentence_model import merge, split
from simjax.objectives.config import (
    ContrastiveConfig,
    MaskedLmConfig,
    RDropConfig,
    Seq2SeqConfig,
    SoftmaxConfig,
)
from simjax.objectives.seq2seq import predicted
from simjax.processes import roll_call
from simjax.sentence_encoder import SentenceEncoder
from simjax.train import loop, setup
from simjax.train.config import ModelConfig, TokenizerConfig, TrainConfig, validate
from simjax.train.finish import export_run
from simjax.train.heads import make_heads
from simjax.train.setup import set_up
from simjax.train.state import shardings
from simjax.train.step import StepOptions, value_and_grad
from simjax.train.system import Facts, seq2seq, vocabulary_of
from simjax.train.update import make_update
from simjax.types import Batch
from tests.models.packed_rows import random_texts
from tests.models.test_lm_head import head_of, saved_peer
from tests.models.test_segments import FIRST, pairs, seen
from tests.tiny_models import bert_tokenizer
from tests.train.tiny_run import (
    BATCH,
    BLOCK,
    STOPPED,
    TOTAL,
    StopAfter,
    assert_same_bits,
    config_for,
    figures,
    state_at,
    train,
)

KEY = jax.random.key(0)
OBJECTIVE = ContrastiveConfig(
    directions="views", temperature=1 / 30, seq2seq=Seq2SeqConfig(weight=0.7)
)


def paraphrases(data, output, **changes):
    """A run over pairs in one row, whose embedding is that of the first token."""
    config = config_for(data, output, **{"objective": OBJECTIVE} | changes)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, views="paraphrases"),
        model=dataclasses.replace(config.model, pooling="cls_linear"),
    )


@pytest.mark.parametrize("family", ["bert", "roformer"])
def test_value_and_gradient_are_those_of_transformers(family, tmp_path):
    """Of every parameter of encoder and head, by PyTorch under a mask that is written out."""
    peer = saved_peer(family, tmp_path)
    model = hf.load(tmp_path, pooling="cls_linear").model
    graphdef, params = split(model)
    head = head_of(tmp_path, model.config)
    block = jax.tree.map(lambda array: jnp.asarray(array)[None], pairs())
    batch = Batch(block, np.zeros((1, 8, 1), np.int32), np.zeros((1, 8)), np.zeros(1, np.int32))
    task = seq2seq(Seq2SeqConfig(), partial(merge, graphdef), head, dropout=False)

    def loss(params):
        _, sums = task.encode(params, batch, jax.random.key(0), None)
        return sums.loss / sums.weight, sums

    whole = {"model": params, "lm_head": split(head)[1]}
    (value, sums), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(whole)

    total = count = right = 0
    for text, first in zip(random_texts(50), FIRST, strict=True):
        mask = np.where(seen(first, len(text)), 0.0, -1e30)
        logits = peer(
            torch.tensor([text]),
            attention_mask=torch.tensor(mask, dtype=torch.float32)[None, None],
            token_type_ids=torch.tensor([[int(n >= first) for n in range(len(text))]]),
        ).logits[0]
        guesses, targets = logits[first - 1 : -1], torch.tensor(text[first:], dtype=torch.long)
        total = total + torch.nn.functional.cross_entropy(guesses, targets, reduction="sum")
        count, right = count + len(targets), right + int((guesses.argmax(1) == targets).sum())
    (total / count).backward()
    assert float(sums.weight) == count and float(sums.metrics["accuracy"]) == right
    np.testing.assert_allclose(float(value), float(total.detach() / count), rtol=1e-5)
    expected = {name: p.grad for name, p in peer.named_parameters() if p.grad is not None}
    ours = names.encoder_tensors(model.config, grads["model"]["encoder"])
    compared = 0
    for name, found in ours.items():
        wanted = expected.get(f"{family}.{name}")
        if wanted is not None:
            np.testing.assert_allclose(found, wanted.numpy(), atol=2e-5, err_msg=name)
            compared += 1
    assert compared >= len(ours) - 1  # a table of sines is no parameter
    transform = peer.cls.predictions.transform
    np.testing.assert_allclose(
        grads["lm_head"]["dense"]["kernel"].T, transform.dense.weight.grad, atol=2e-5
    )
    np.testing.assert_allclose(grads["lm_head"]["bias"], peer.cls.predictions.bias.grad, atol=2e-5)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that is measured by the perplexity of texts like those that it learns from."""
    folder = tmp_path_factory.mktemp("seq2seq")
    with (data / "triples.csv").open() as file:
        rows = [line.split(",")[:2] for line in file][1:9]
    lines = ["\t".join(row) for row in [["sentence1", "sentence2"], *rows]]
    (folder / "pairs.tsv").write_text("\n".join(lines) + "\n")
    evaluation = EvalConfig(
        tasks=(Task("paraphrases", str(folder / "pairs.tsv")),), every=6, metric="pairs/perplexity"
    )
    checkpoint = CheckpointConfig(every=3, keep=3)
    config = paraphrases(data, folder / "run", evaluation=evaluation, checkpoint=checkpoint)
    train(config)
    return config


def test_the_perplexity_of_paraphrases_falls_and_names_the_best_step(whole):
    found = {
        line["step"]: line["eval/pairs/perplexity"]
        for line in figures(Path(whole.output))
        if "eval/pairs/perplexity" in line
    }
    assert sorted(found) == [0, 6, TOTAL]
    # At the start about as many as there are tokens.
    assert 20 < found[0] < 50 and found[TOTAL] < 0.8 * found[0]
    best = min(found, key=found.get)
    exported = SentenceEncoder.from_pretrained(whole.output).decoder
    state = state_at(whole, best).params["lm_head"]
    jax.tree.map(np.testing.assert_array_equal, exported.params["lm_head"], state)
    assert exported.text_length == 8


def test_an_export_of_a_checkpoint_has_its_decoder(whole, tmp_path):
    assert export_run(Path(whole.output), tmp_path / "x", step=TOTAL - 3) == TOTAL - 3
    exported = SentenceEncoder.from_pretrained(tmp_path / "x").decoder
    state = state_at(whole, TOTAL - 3).params["lm_head"]
    jax.tree.map(np.testing.assert_array_equal, exported.params["lm_head"], state)


def test_a_second_stage_starts_from_the_decoder_of_the_first(data, whole, tmp_path):
    (tmp_path / "run").mkdir()
    config = paraphrases(
        data,
        tmp_path / "run",
        model=ModelConfig(pretrained=whole.output),
        tokenizer=TokenizerConfig(),
    )
    head = set_up(config).params["lm_head"]
    first = SentenceEncoder.from_pretrained(whole.output).decoder.params["lm_head"]
    jax.tree.map(np.testing.assert_array_equal, head, first)


def test_masked_tokens_do_not_start_from_what_says_the_next_one(data, whole, tmp_path):
    config = config_for(
        data,
        tmp_path / "run",
        model=ModelConfig(pretrained=whole.output),
        objective=ContrastiveConfig(mlm=MaskedLmConfig()),
    )
    loaded = SentenceEncoder.from_pretrained(whole.output)
    shape, seed = loaded.model.config, config.seed
    (head,) = make_heads(config, shape).values()
    drawn = LanguageModelHead(
        shape, rngs=nnx.Rngs(params=jax.random.fold_in(jax.random.key(seed), 1))
    )
    jax.tree.map(np.testing.assert_array_equal, split(head)[1], split(drawn)[1])
    kernel = split(head)[1]["dense"]["kernel"]
    assert np.abs(kernel - loaded.decoder.params["lm_head"]["dense"]["kernel"]).max() > 0.01


def test_processes_compare_the_decoders_that_they_start_from(data, whole, tmp_path, monkeypatch):
    config = paraphrases(data, tmp_path / "run", model=ModelConfig(pretrained=whole.output))
    encoder = SentenceEncoder.from_pretrained(whole.output)
    head = jax.tree.map(lambda leaf: leaf * 1.01, encoder.decoder.params)
    told = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(roll_call, "agree", lambda subject, mine: told.append(mine))
    for one in (encoder, encoder, encoder.replace(encoder.params, head)):
        setup._agree(config, one, SimpleNamespace(fingerprint="x"), None, 3)
    assert told[0] == told[1] != told[2]
    assert {key for key in told[0] if told[0][key] != told[2][key]} == {
        "decoder of model.pretrained"
    }


def test_both_losses_fall(whole):
    steps = [line for line in figures(Path(whole.output)) if "seq2seq_loss" in line]
    assert len(steps) == TOTAL
    for name in ("seq2seq_loss", "coupled_loss"):
        early, late = (np.mean([s[name] for s in part]) for part in (steps[:3], steps[-3:]))
        assert late < early - 0.05, name
    for step in steps:
        both = step["coupled_loss"] + 0.7 * step["seq2seq_loss"]
        np.testing.assert_allclose(step["loss"], both, rtol=1e-5)
        assert 0 <= step["seq2seq_accuracy"] <= 1


def test_the_export_embeds_as_sentence_transformers_does(whole):
    texts = ["balan cemer dinis", "fopot guruk"]
    ours = SentenceEncoder.from_pretrained(whole.output).encode(texts)
    theirs = SentenceTransformer(f"{whole.output}/export", device="cpu").encode(texts)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path, whole, monkeypatch):
    config = dataclasses.replace(whole, output=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopRequest", StopAfter)
        assert train(config)["steps"] == STOPPED
    train(config)
    assert_same_bits(state_at(config), state_at(whole))


def test_every_token_behind_is_predicted(data, tmp_path):
    (tmp_path / "run").mkdir()
    run = set_up(paraphrases(data, tmp_path / "run"))
    for n in range(3):
        batch = run.source[n].batch
        where, targets = jax.vmap(predicted)(batch.block)
        assert (np.asarray(targets) >= 0).sum() == (batch.block.segment == 1).sum()
        real = np.asarray(targets) >= 0
        for block, places, tokens in zip(
            np.arange(len(real)), np.asarray(where), np.asarray(targets), strict=True
        ):
            flat, text = (
                array[block].reshape(-1) for array in (batch.block.tokens, batch.block.text)
            )
            here = places[real[block]]
            np.testing.assert_array_equal(flat[here + 1], tokens[real[block]])
            np.testing.assert_array_equal(text[here + 1], text[here])


def gradient(run, mesh_config, micro, gather="step"):
    """The system, its parameters, and metrics and gradients of the first batch on some devices."""
    config = run.config
    mesh = meshes.make_mesh(mesh_config, jax.devices()[: mesh_config.data * mesh_config.fsdp])
    head = LanguageModelHead(run.model.config, rngs=nnx.Rngs(params=1))
    update = make_update(config, mesh, run.model, {"lm_head": head}, Facts(1), TOTAL)
    options = StepOptions(micro, gather, 1.0, 0)
    function = value_and_grad(update.system, update.specs.params, mesh, options)
    params = jax.device_put(update.params, shardings(update.specs, mesh).params)
    batch = jax.device_put(run.source[0].batch, meshes.batch_sharding(mesh))
    found = jax.jit(function)(params, batch, KEY)
    return update, *jax.tree.map(np.asarray, found)


@pytest.mark.slow
def test_the_gradient_depends_neither_on_the_devices_nor_on_the_micro_batch(data, tmp_path):
    (tmp_path / "run").mkdir()
    run = set_up(paraphrases(data, tmp_path / "run"))
    update, metrics, grads = gradient(run, MeshConfig(1, 1), None)

    # The head has a gradient of this loss alone: its mean over the batch, times its weight.
    def mean(head):
        params = update.params | {"lm_head": head}
        _, sums = update.system.alongside.encode(params, run.source[0].batch, KEY, None)
        return sums.loss / sums.weight

    alone = jax.jit(jax.grad(mean))(update.params["lm_head"])
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(grads["lm_head"]), strict=True):
        np.testing.assert_allclose(0.7 * one, other, atol=1e-6)

    for layout in ((MeshConfig(1, 1), 4), (MeshConfig(4, 2), 1), (MeshConfig(2, 2), 2, "layer")):
        _, others, found = gradient(run, *layout)
        assert others.keys() == metrics.keys()
        for name, value in metrics.items():
            np.testing.assert_allclose(others[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
        for one, other in zip(jax.tree.leaves(grads), jax.tree.leaves(found), strict=True):
            assert np.abs(one - other).max() <= 1e-5 * np.abs(one).max()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"views": "columns"}, r"objective\.seq2seq is given and data\.views is columns"),
        (
            {"objective": ContrastiveConfig()},
            r"data\.views is paraphrases and objective\.seq2seq is null: nothing is learned of",
        ),
        ({"family": "distilbert"}, r"data\.views is paraphrases and model\.encoder \(distilbert\)"),
        ({"type_vocab_size": 1}, "has no two token types"),
        ({"noise": True}, r"train\.noise_scale does not go with objective\.seq2seq"),
        (
            {"objective": ContrastiveConfig(mlm=MaskedLmConfig(), seq2seq=Seq2SeqConfig())},
            r"objective\.mlm and objective\.seq2seq are given",
        ),
        (
            {"objective": SoftmaxConfig(r_drop=RDropConfig(), seq2seq=Seq2SeqConfig())},
            r"objective\.seq2seq does not go with objective\.r_drop",
        ),
    ],
)
def test_what_it_does_not_go_with(data, tmp_path, changes, says):
    config = paraphrases(data, tmp_path / "run")
    config = dataclasses.replace(
        config,
        objective=changes.pop("objective", config.objective),
        data=dataclasses.replace(config.data, views=changes.pop("views", "paraphrases")),
        train=TrainConfig(micro_batch=BLOCK, noise_scale=changes.pop("noise", False)),
        model=ModelConfig(
            encoder=EncoderConfig(**changes),
        ),
    )
    with pytest.raises(UsageError, match=says):
        validate(config)


def test_words_are_masked_with_what_the_tokenizer_has():
    tokenizer = bert_tokenizer()
    plain, corrupting = (
        ContrastiveConfig(seq2seq=Seq2SeqConfig(corrupted=share)) for share in (0.0, 0.5)
    )
    assert vocabulary_of(plain, tokenizer) is None
    found = vocabulary_of(corrupting, tokenizer)
    assert found.mask == tokenizer.mask_token_id and found.size == len(tokenizer)
    goes_on = tokenizer.convert_ids_to_tokens(list(found.continues))
    assert len(goes_on) == 26 and all(token.startswith("##") for token in goes_on)
    tokenizer.mask_token = None
    with pytest.raises(UsageError, match=r"objective\.seq2seq\.corrupted is given and the tok"):
        vocabulary_of(corrupting, tokenizer)


@pytest.mark.parametrize("corrupted", [0.0, 0.5])
def test_batches_tell_the_words_of_chinese(data, tmp_path, corrupted):
    """Where words are masked; by jieba, since its characters are tokens."""
    characters = "".join(map(chr, range(0x4E00, 0x9FFF)))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (tmp_path / "vocab.txt").write_text("\n".join([*special, *characters]), encoding="utf-8")
    pair = "怎么更改手机\t在白云的蓝天\n"
    (tmp_path / "pairs.tsv").write_text("anchor\tpositive\n" + pair * BATCH, encoding="utf-8")
    source = Source(path=str(tmp_path / "pairs.tsv"), anchor="anchor", positives=("positive",))
    objective = dataclasses.replace(OBJECTIVE, seq2seq=Seq2SeqConfig(corrupted=corrupted))
    config = paraphrases(data, tmp_path / "run", objective=objective)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, source=source),
        tokenizer=TokenizerConfig(source=str(tmp_path / "vocab.txt")),
    )
    block = set_up(config).source[0].batch.block
    if not corrupted:
        assert block.goes_on is None
        return
    words = [0, 1, 0, 1, 0, 1], [0, 0, 1, 0, 0, 1]  # 怎么 更改 手机; 在 白云 的 蓝天
    both = [[0, *one, 0, *other, 0, 0] for one, other in (words, words[::-1])]
    assert block.goes_on.astype(int).reshape(-1, 16).tolist() == both * BATCH
    assert train(dataclasses.replace(config, train=TrainConfig(steps=2)))["steps"] == 2


def test_a_weight_is_above_nothing():
    with pytest.raises(UsageError, match=r"objective\.seq2seq\.weight is 0"):
        Seq2SeqConfig(weight=0.0)
