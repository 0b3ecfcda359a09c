"""Every family against its own model in transformers, packed, and after export."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from transformers import AutoModel

from simjax.models import hf
from simjax.models.sentence_model import merge, split
from tests.models.packed_rows import pack, random_texts, unpack
from tests.models.peers import PEERS, peer_states, random_peer
from tests.models.quick import quick_jit

pytestmark = pytest.mark.usefixtures("strict_promotion")

ROW = 20


@pytest.fixture(scope="module", params=list(PEERS))
def peer(request, tmp_path_factory):
    """A random model, and a folder that it was saved in."""
    folder = tmp_path_factory.mktemp(request.param)
    model = random_peer(request.param)
    model.save_pretrained(folder)
    return model, folder


@pytest.mark.parametrize("together", [False, True], ids=["one text to a row", "packed"])
def test_hidden_states_are_those_of_transformers(peer, together):
    model, folder = peer
    ours = hf.load(folder).model
    texts = random_texts(50)
    block = pack(texts, ROW, together=together)
    assert block.tokens.shape[0] == (4 if together else len(texts))
    last, first = quick_jit(lambda b: ours.encoder(b.tokens, b.positions, b.text, also=1))(block)
    for ours_first, ours_last, (peer_first, peer_last) in zip(
        unpack(first, block), unpack(last, block), peer_states(model, texts), strict=True
    ):
        np.testing.assert_allclose(ours_first, peer_first, atol=1e-5)
        np.testing.assert_allclose(ours_last, peer_last, atol=1e-5)


def test_transformers_reads_what_we_write(peer, tmp_path):
    """The same tensors under the same names, and a configuration that builds the same model."""
    model, folder = peer
    loaded = hf.load(folder).model
    (tmp_path / "config.json").write_text(json.dumps(hf.hf_config(loaded.config)))
    tensors = hf.state_dict(loaded)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    again, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert type(again) is type(model)
    for name, parameter in model.state_dict().items():
        if "pooler" not in name:
            np.testing.assert_allclose(again.state_dict()[name], parameter, atol=1e-6, err_msg=name)
    texts = random_texts(50)
    for (_, found), (_, expected) in zip(
        peer_states(again.eval(), texts), peer_states(model, texts), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_gradients_of_packed_texts_are_those_of_single_ones(peer):
    """Of every parameter: what a text teaches does not depend on its neighbours in the row."""
    _, folder = peer
    loaded = hf.load(folder).model
    graphdef, params = split(loaded)
    texts = random_texts(50)
    weights = np.random.default_rng(0).normal(size=(len(texts), 24)).astype(np.float32)

    def gradient(together):
        block = pack(texts, ROW, together=together)
        return quick_jit(jax.grad(lambda p: jnp.sum(merge(graphdef, p)(block) * weights)))(params)

    apart, packed = gradient(False), gradient(True)
    for path, leaf in jax.tree.leaves_with_path(apart):
        found = packed
        for key in path:
            found = found[key.key]
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(found, leaf, atol=2e-4 * np.abs(leaf).max() + 1e-6, err_msg=name)
        if "token_type" not in name and "position" not in name:
            assert np.abs(leaf).max() > 0, name
