"""A guide's embeddings: made once, kept, and carried to the loss by the batches."""

from __future__ import annotations

import dataclasses
import gc
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from simjax.data import corpus
from simjax.data.identity import normalised
from simjax.data.pipeline import BatchSource
from simjax.data.sources import Source
from simjax.errors import SimjaxError
from simjax.objectives.config import ContrastiveConfig, GuideConfig
from simjax.processes import lock
from simjax.sentence_encoder import SentenceEncoder
from simjax.train import frozen, setup
from simjax.train.config import RunConfig
from tests.train.tiny_run import config_for, figures, train

LINES = ("ba lan", "CE  mer", "ce mer", "di nis", "ba  LAN", "fo pot")


def spoil(folder: Path) -> None:
    """Another embedding of every token."""
    tensors = load_file(folder / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    tensors[name] = tensors[name] * np.linspace(1, 1.5, 16, dtype=np.float32)
    save_file(tensors, folder / "model.safetensors")


@pytest.fixture(scope="module")
def model(whole) -> str:
    return whole[0].output


def embedded(model, config, store):
    key = "objective.guide.model"
    return frozen.embeddings(key, model, config.data, store, lambda width: None).vectors


def mixture(data: Path, tmp_path: Path) -> RunConfig:
    """Two sources that share texts, with prompts, which the guide does not see."""
    (tmp_path / "lines.txt").write_text("\n".join(LINES) + "\n")
    config = config_for(data, tmp_path / "run")
    triples = dataclasses.replace(config.data.source, anchor_prefix="gu ")
    lines = Source(path=str(tmp_path / "lines.txt"), anchor_prefix="ruk ")
    mixed = dataclasses.replace(
        config.data, source=Source(), sources=(lines, triples, lines), cache=str(tmp_path / "cache")
    )
    return dataclasses.replace(config, data=mixed)


def test_every_id_has_the_vector_of_its_text(data, tmp_path, model, monkeypatch):
    config = mixture(data, tmp_path)
    store = corpus.prepare(config.data, setup.make_tokenizer(config))
    vectors = np.array(embedded(model, config, store))
    texts = list(corpus.distinct_texts(config.data, store))
    assert texts[:4] == ["ba lan", "CE  mer", "di nis", "fo pot"]
    assert len({normalised(text) for text in texts}) == len(texts) == len(store.digests)
    expected = SentenceEncoder.from_pretrained(model).encode(texts, normalize=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("made anew")

    with monkeypatch.context() as patch:
        patch.setattr(frozen, "encode_to_file", refuse)
        np.testing.assert_array_equal(embedded(model, config, store), vectors)
    cache = Path(config.data.cache or "")
    (file,) = cache.glob("frozen-*")
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    np.testing.assert_array_equal(embedded(model, config, store), vectors)
    assert file.read_bytes() == whole
    other = Path(shutil.copytree(Path(model) / "export", tmp_path / "other"))
    spoil(other)
    theirs = embedded(str(other), config, store)
    assert np.abs(theirs - vectors).max() > 1e-3
    np.testing.assert_array_equal(embedded(model, config, store), vectors)


def test_where_nothing_is_locked_each_process_makes_its_own(data, tmp_path, model, monkeypatch):
    """Two that begin at once: each one's file is whole, and one of them stays."""
    config = mixture(data, tmp_path)
    store = corpus.prepare(config.data, setup.make_tokenizer(config))
    monkeypatch.setattr(lock, "acquired", lambda file: True)
    made, expected = frozen.encode_to_file, []

    def meanwhile(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(frozen, "encode_to_file", made)
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(frozen.socket, "gethostname", lambda: "elsewhere")
            expected.append(np.array(embedded(model, config, store)))
        return made(*args, **options)

    monkeypatch.setattr(frozen, "encode_to_file", meanwhile)
    vectors = embedded(model, config, store)
    np.testing.assert_array_equal(vectors, expected[0])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert len(list(Path(config.data.cache or "").glob("frozen-*"))) == 1


def test_the_weights_of_a_guide_do_not_stay(data, tmp_path, model):
    config = mixture(data, tmp_path)
    store = corpus.prepare(config.data, setup.make_tokenizer(config))
    gc.collect()
    before = sum(array.nbytes for array in jax.live_arrays())
    for _ in range(2):
        embedded(model, config, store)
        assert sum(array.nbytes for array in jax.live_arrays()) <= before + 1024


def test_a_guide_that_is_broken_is_refused(data, tmp_path, model):
    config = mixture(data, tmp_path)
    store = corpus.prepare(config.data, setup.make_tokenizer(config))
    broken = Path(shutil.copytree(Path(model) / "export", tmp_path / "broken"))
    tensors = load_file(broken / "model.safetensors")
    for name in [name for name in tensors if "1.output.LayerNorm" in name]:
        tensors[name] = np.zeros_like(tensors[name])
    save_file(tensors, broken / "model.safetensors")
    with pytest.raises(SimjaxError, match=r"broken: its embedding of training text 0 has length 0"):
        embedded(str(broken), config, store)


def test_batches_carry_the_vectors_of_their_texts(data, tmp_path):
    config = mixture(data, tmp_path)
    few = dataclasses.replace(config.data, batch_size=4, mixing="mixed")
    store = corpus.prepare(few, setup.make_tokenizer(config))
    vectors = np.random.default_rng(0).normal(size=(len(store.digests), 5)).astype(np.float32)
    few = dataclasses.replace(few, views="dropout")
    source = BatchSource(store, few, guide=vectors)
    for batch in (source[0].batch, source[1].batch):
        assert batch.guide is not None
        np.testing.assert_array_equal(batch.guide, vectors[batch.ids])
    triples = corpus.prepare(config_for(data, tmp_path).data, setup.make_tokenizer(config))
    absent = triples.examples.copy()
    absent[:, 2] = -1
    source = BatchSource(
        dataclasses.replace(triples, examples=absent),
        config_for(data, tmp_path).data,
        guide=np.ones((len(triples.digests), 5), np.float32),
    )
    np.testing.assert_array_equal(source[0].batch.guide[:, :, 2], 0)
    np.testing.assert_array_equal(source[0].batch.guide[:, :, :2], 1)


@pytest.mark.slow
def test_a_run_goes_by_its_guide_and_keeps_to_it(data, tmp_path, model, whole):
    """A margin that few keys keep leaves some anchors without negatives."""
    objective = ContrastiveConfig(guide=GuideConfig(model, margin=0.99), loss="dcl")
    config = config_for(data, tmp_path / "run", objective=objective)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=1))
    train(config)
    steps = [line for line in figures(tmp_path / "run") if "loss" in line]
    assert steps and all(line["without_negatives"] > 0 for line in steps)
    other = dataclasses.replace(objective, guide=dataclasses.replace(objective.guide, margin=0.5))
    with pytest.raises(SimjaxError, match=r"refused: objective.guide.margin \(0.99 there, 0.5"):
        train(dataclasses.replace(config, objective=other))
    # What the guide says counts, not where it lies.
    moved = Path(shutil.copytree(Path(model) / "export", tmp_path / "moved"))
    same = dataclasses.replace(
        objective, guide=dataclasses.replace(objective.guide, model=str(moved))
    )
    train(dataclasses.replace(config, objective=same))
    spoil(moved)
    with pytest.raises(SimjaxError, match=r"refused: objective.guide.model \("):
        train(dataclasses.replace(config, objective=same))


def test_a_guide_that_is_not_there_is_named(data, tmp_path):
    objective = ContrastiveConfig(guide=GuideConfig(str(tmp_path / "nothing")))
    with pytest.raises(SimjaxError, match=r"objective.guide.model: .*nothing: no such folder"):
        train(config_for(data, tmp_path / "run", objective=objective))


def test_sources_that_changed_are_refused(data, tmp_path):
    config = mixture(data, tmp_path)
    store = corpus.prepare(config.data, setup.make_tokenizer(config))
    (tmp_path / "lines.txt").write_text("ba lan\n")
    with pytest.raises(SimjaxError, match="the texts have changed since they were tokenised"):
        list(corpus.distinct_texts(config.data, store))
