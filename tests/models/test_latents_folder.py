"""Latents in the folder of their model, and what is refused there."""

import json

import jax
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from simjax.errors import SimjaxError, UsageError
from simjax.models.latents import LatentsConfig
from simjax.sentence_encoder import SentenceEncoder
from tests.generate.writers import writer
from tests.models.edits import edit_json, edit_tensors

SPHERE = LatentsConfig(layers=2, size=5, kappa=20.0)
KERNEL = "layers.inward.kernel"
TEXTS = ["the cat", "a man run", "the woman, the fish"]


@pytest.fixture
def folder(tmp_path):
    writer(latents=SPHERE).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("family", ["bert", "roformer", "albert"])
def test_they_come_back_as_they_were(family, tmp_path):
    encoder = writer(family, latents=SPHERE)
    encoder.save_pretrained(tmp_path / "model")
    loaded = SentenceEncoder.from_pretrained(tmp_path / "model").decoder
    assert loaded.latents.config == SPHERE
    assert (loaded.predicts, loaded.max_tokens) == ("reconstruction", 22)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, encoder.decoder.params)


def test_others_load_the_encoder_around_them(folder):
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    ours = SentenceEncoder.from_pretrained(folder).encode(TEXTS)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    card = (folder / "README.md").read_text()
    assert "load this folder without its latents and its decoder" in card
    assert 'pooling="latents"' in card


def test_latents_are_an_embedding(folder):
    encoder = SentenceEncoder.from_pretrained(folder, pooling="latents")
    found = encoder.encode(TEXTS)
    assert found.shape == (3, 10)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    plain = SentenceEncoder.from_pretrained(folder)
    assert plain.encode(TEXTS).shape == (3, 24)
    # An index of the one is none of the other.
    assert encoder.fingerprint() != plain.fingerprint()
    shared = encoder.replace(jax.tree.map(lambda leaf: leaf * 1.1, encoder.params))
    assert shared.encode(TEXTS).shape == (3, 10)
    devices = SentenceEncoder.from_pretrained(
        folder, pooling="latents", devices=jax.local_devices()
    )
    np.testing.assert_allclose(devices.encode(TEXTS * 40)[-3:], found, atol=1e-5)


def test_a_model_without_them_has_no_such_embedding(tmp_path):
    writer().save_pretrained(tmp_path / "model")
    with pytest.raises(UsageError, match=r"the model has none; objective\.name vae trains them"):
        SentenceEncoder.from_pretrained(tmp_path / "model", pooling="latents")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("kappa"), r"config\.json: kappa is None, not a number"),
        (lambda c: c.update(kappa=0), r"config\.json: model\.latents\.kappa is 0: give a number"),
        (lambda c: c.update(layers=4), r"layers is 4 and the encoder has 4 layers: give fewer"),
        (lambda c: c.update(size=6), r"inward\.\w+ has shape .*asks for"),
        (lambda c: c.update(kind="normal"), r"model\.latents\.kind is 'normal': choose from"),
        (lambda c: c.update(more=1), r"'more' is no setting of latents"),
    ],
)
def test_faulty_settings_are_refused(folder, change, says):
    edit_json(folder / "latents" / "config.json", change)
    with pytest.raises(SimjaxError, match=says):
        SentenceEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop(KERNEL), r"tensor layers\.inward\.kernel is missing"),
        (
            lambda t: t.update(more=np.zeros(3, np.float32)),
            "tensor more has no place among latents",
        ),
        (lambda t: t.update({KERNEL: np.full_like(t[KERNEL], np.nan)}), "are not finite"),
    ],
)
def test_faulty_tensors_are_refused(folder, change, says):
    edit_tensors(folder / "latents", change)
    with pytest.raises(SimjaxError, match=says):
        SentenceEncoder.from_pretrained(folder)


def test_latents_and_their_decoder_go_together(folder):
    path = folder / "config_sentence_transformers.json"
    content = json.loads(path.read_text())
    for name, says in (("decoder", "latents without the decoder"), ("latents", "names no latents")):
        path.write_text(json.dumps({k: v for k, v in content.items() if k != name}))
        with pytest.raises(SimjaxError, match=says):
            SentenceEncoder.from_pretrained(folder)
