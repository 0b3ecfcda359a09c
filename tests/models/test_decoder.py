"""A decoder in the folder of its model, and what is refused there."""

import json

import jax
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from simjax.errors import SimjaxError
from simjax.models import decoder
from simjax.sentence_encoder import SentenceEncoder
from tests.generate.writers import writer
from tests.models.edits import edit_json, edit_tensors

BIAS = "cls.predictions.bias"


@pytest.fixture
def folder(tmp_path):
    writer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("family", ["bert", "roformer", "albert", "electra"])
def test_it_comes_back_as_it_was(family, tmp_path):
    encoder = writer(family)
    encoder.save_pretrained(tmp_path / "model")
    loaded = SentenceEncoder.from_pretrained(tmp_path / "model")
    jax.tree.map(np.testing.assert_array_equal, loaded.decoder.params, encoder.decoder.params)
    # A copy of the copy has it, too, and other parameters of the model do not.
    loaded.save_pretrained(tmp_path / "again")
    assert decoder.read(tmp_path / "again", encoder.model.config) is not None
    assert loaded.replace(loaded.params).decoder is None


def test_others_load_the_encoder_around_it(folder):
    texts = ["the cat", "a man run"]
    theirs = SentenceTransformer(str(folder), device="cpu").encode(texts)
    ours = SentenceEncoder.from_pretrained(folder).encode(texts)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    card = (folder / "README.md").read_text()
    assert 'simjax generate model "' in card and "load the encoder without it" in card


def test_a_folder_without_one_says_so(folder):
    encoder = writer().replace(writer().params)
    encoder.save_pretrained(folder, overwrite=True)
    assert not (folder / "decoder").exists()
    assert decoder.read(folder, encoder.model.config) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("text_length"), r"config\.json: text_length is missing"),
        (lambda c: c.update(layers=2), r"config\.json: 'layers' is no setting of a decoder"),
        (lambda c: c.update(hidden_size=25), "hidden_size is 25, and for the encoder beside it"),
        (lambda c: c.update(vocab_size=True), "vocab_size is True, and for the encoder"),
        (lambda c: c.update(predicts="masked tokens"), "predicts is 'masked tokens', and"),
        (lambda c: c.update(text_length=17), "text_length is 17, which takes 33 places, and the"),
        (lambda c: c.update(text_length=2), "text_length is 2: a whole number of at least 3"),
        (lambda c: c.update(text_length="9"), "text_length is '9': a whole number of at least 3"),
        (lambda c: c.update(predicts="reconstruction"), "and the model names no latents"),
    ],
)
def test_faulty_settings_are_refused(folder, change, says):
    edit_json(folder / "decoder" / "config.json", change)
    with pytest.raises(SimjaxError, match=says):
        SentenceEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("cls.predictions.bias"), r"tensor cls\.predictions\.bias is missing"),
        (lambda t: t.update(more=np.zeros(3, np.float32)), "tensor more has no place in a decoder"),
        (
            lambda t: t.update({"cls.predictions.bias": np.zeros(3, np.float32)}),
            r"tensor cls\.predictions\.bias has shape \[3\], but",
        ),
        (
            lambda t: t.update({BIAS: np.full_like(t[BIAS], np.nan)}),
            r"tensor cls\.predictions\.bias has values that are not finite",
        ),
    ],
)
def test_faulty_tensors_are_refused(folder, change, says):
    edit_tensors(folder / "decoder", change)
    with pytest.raises(SimjaxError, match=says):
        SentenceEncoder.from_pretrained(folder)


def test_a_link_is_not_followed(folder, tmp_path):
    (folder / "decoder").rename(tmp_path / "elsewhere")
    (folder / "decoder").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SimjaxError, match="module path 'decoder' leaves the folder"):
        SentenceEncoder.from_pretrained(folder)


def test_only_a_folder_that_the_model_names_is_a_decoder(folder):
    settings = folder / "config_sentence_transformers.json"
    content = json.loads(settings.read_text())
    assert content.pop("decoder") == "decoder"
    settings.write_text(json.dumps(content))
    assert SentenceEncoder.from_pretrained(folder).decoder is None
    settings.write_text(json.dumps(content | {"decoder": "elsewhere"}))
    with pytest.raises(SimjaxError, match="decoder is 'elsewhere', and there is no such folder"):
        SentenceEncoder.from_pretrained(folder)
