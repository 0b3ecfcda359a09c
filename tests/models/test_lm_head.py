"""The head that predicts masked tokens against every family's own in transformers."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from scipy.special import log_softmax

from simjax.errors import SimjaxError
from simjax.models import hf
from simjax.models.lm_head import LanguageModelHead, token_losses
from simjax.models.sentence_model import merge, split
from tests.models.edits import edit_json, edit_tensors
from tests.models.packed_rows import pack, random_texts, unpack
from tests.models.peers import PEERS, random_peer
from tests.models.quick import quick_jit

pytestmark = pytest.mark.usefixtures("strict_promotion")

ROW = 20


def saved_peer(family, folder, **changes):
    """A random model with its head, saved; biases and norms are random as well."""
    config = random_peer(family, **changes).config
    model = getattr(transformers, f"{PEERS[family][0]}ForMaskedLM")(config).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model


def head_of(folder, config):
    head = LanguageModelHead(config, rngs=nnx.Rngs(params=0))
    params = hf.load_lm_head(folder, config)
    shapes = [leaf.shape for leaf in map(np.asarray, (split(head)[1]["bias"], params["bias"]))]
    assert shapes[0] == shapes[1]
    return merge(split(head)[0], {k: _arrays(v) for k, v in params.items()})


def _arrays(tree):
    return {k: _arrays(v) for k, v in tree.items()} if isinstance(tree, dict) else jnp.asarray(tree)


@pytest.mark.parametrize(
    ("family", "changes"),
    [*((family, {}) for family in PEERS), ("roberta", {"hidden_act": "relu"})],
    ids=[*PEERS, "roberta with another activation"],
)
def test_logits_are_those_of_transformers(family, changes, tmp_path):
    peer = saved_peer(family, tmp_path, **changes)
    model = hf.load(tmp_path).model
    head = head_of(tmp_path, model.config)
    texts = random_texts(50)
    block = pack(texts, ROW, together=True)

    def logits(block):
        states, _ = model.encoder(block.tokens, block.positions, block.text)
        rows = states.reshape(-1, states.shape[-1])
        found = head(rows, model.encoder.embeddings.word.embedding[...])
        return found.reshape(*states.shape[:2], -1)

    for text, found in zip(texts, unpack(quick_jit(logits)(block), block), strict=True):
        with torch.no_grad():
            expected = peer(torch.tensor([text])).logits[0].numpy()
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_losses_are_those_of_the_chosen_places():
    random = np.random.default_rng(0)
    config = hf.EncoderConfig(vocab_size=11, hidden_size=8, num_heads=2)
    head = LanguageModelHead(config, rngs=nnx.Rngs(params=0))
    table, states = random.normal(size=(11, 8)), random.normal(size=(3, 6, 8))
    where = np.asarray([[0, 5, 6], [2, 2, 1], [6, 6, 6]])
    targets = random.integers(0, 11, (3, 3))
    table, states = table.astype(np.float32), states.astype(np.float32)
    losses, right = token_losses(head, table, states, where, targets)
    picked = np.stack(
        [block[np.minimum(places, 5)] for block, places in zip(states, where, strict=True)]
    )
    logits = np.asarray(head(jnp.asarray(picked.reshape(9, 8)), jnp.asarray(table)), np.float64)
    expected = -np.take_along_axis(log_softmax(logits, 1), targets.reshape(9, 1), 1).reshape(3, 3)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_array_equal(right, (logits.argmax(1) == targets.reshape(9)).reshape(3, 3))


def test_a_folder_without_a_head_says_so(tmp_path):
    random_peer("bert").save_pretrained(tmp_path)
    assert hf.load_lm_head(tmp_path, hf.load(tmp_path).model.config) is None


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("bert", "tie_word_embeddings", False),
        ("modernbert", "classifier_bias", True),
        ("modernbert", "classifier_activation", "relu"),
        ("modernbert", "decoder_bias", False),
    ],
)
def test_a_head_of_another_kind_is_refused(family, key, value, tmp_path):
    saved_peer(family, tmp_path)
    config = hf.load(tmp_path).model.config
    edit_json(tmp_path / "config.json", lambda content: content.update({key: value}))
    with pytest.raises(SimjaxError, match=rf"config\.json: {key} is {value}: its head"):
        hf.load_lm_head(tmp_path, config)


def test_half_a_head_is_refused(tmp_path):
    saved_peer("bert", tmp_path)
    config = hf.load(tmp_path).model.config
    edit_tensors(tmp_path, lambda tensors: tensors.pop("cls.predictions.bias"))
    with pytest.raises(SimjaxError, match=r"model\.safetensors: tensor cls\.predictions\.bias is"):
        hf.load_lm_head(tmp_path, config)
