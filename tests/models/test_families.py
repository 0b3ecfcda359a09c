"""Every family against its own model in transformers, packed, and after export."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from transformers import AutoModel

from simjax.errors import SimjaxError
from simjax.models import encoder, hf, sight
from simjax.models.sentence_model import merge, split
from tests.models.packed_rows import pack, random_texts, unpack
from tests.models.peers import PEERS, peer_states, random_peer
from tests.models.quick import quick_jit

pytestmark = pytest.mark.usefixtures("strict_promotion")

ROW = 20


def edited(folder, tmp_path, **changes):
    """A copy of a folder with other values in its configuration."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return tmp_path


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


@pytest.mark.slow
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


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_long_rows_are_attended_to_in_blocks(tmp_path, monkeypatch, family):
    """The same states and gradients as with all scores at once."""
    random_peer(family).save_pretrained(tmp_path)
    graphdef, params = split(hf.load(tmp_path).model)
    block = pack(random_texts(50), ROW, together=True)
    weights = np.random.default_rng(0).normal(size=(8, 24)).astype(np.float32)

    def value_and_gradient():
        # A function of its own for each way, since JAX remembers what it traced.
        return jax.value_and_grad(lambda p: jnp.sum(merge(graphdef, p)(block) * weights))

    whole = quick_jit(value_and_gradient())(params)
    monkeypatch.setattr(sight, "LONG_ROW", 8)
    monkeypatch.setattr(encoder, "_BLOCK", 8)
    jaxpr = str(jax.make_jaxpr(value_and_gradient())(params))
    assert f"4,3,{ROW},8" in jaxpr.replace(" ", "") and f"4,3,{ROW},{ROW}]" not in jaxpr
    found = quick_jit(value_and_gradient())(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(b).max() + 1e-6),
        found,
        whole,
    )


@pytest.mark.slow
def test_a_text_of_8192_tokens(tmp_path):
    peer = random_peer("modernbert", max_position_embeddings=8192, local_attention=128)
    peer.save_pretrained(tmp_path)
    ours = hf.load(tmp_path).model
    texts = random_texts(50, (8000, 100, 92))
    block = pack(texts, 8192, together=True)
    last, _ = quick_jit(lambda b: ours.encoder(b.tokens, b.positions, b.text))(block)
    for found, (_, expected) in zip(unpack(last, block), peer_states(peer, texts), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("albert", {"num_hidden_groups": 2}, "num_hidden_groups 2 is not supported; only 1"),
        ("roformer", {"rotary_value": True}, "rotary_value True is not supported; only False"),
        ("modernbert", {"mlp_bias": True}, "mlp_bias True is not supported; only False"),
        ("modernbert", {"mlp_dropout": 0.1}, "embedding_dropout and mlp_dropout differ"),
        (
            "modernbert",
            {"layer_types": ["full_attention", "full_attention", "sliding_attention"]},
            "layer_types is not supported",
        ),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            "rope_parameters.full_attention is .*yarn.*; only rope_type default",
        ),
        ("modernbert", {"num_attention_heads": 8}, "is odd, and modernbert turns pairs"),
        ("distilbert", {"dim": None}, "dim is missing"),
    ],
)
def test_what_is_not_supported(tmp_path, family, changes, message):
    random_peer(family).save_pretrained(tmp_path / "peer")
    (tmp_path / "edited").mkdir()
    with pytest.raises(SimjaxError, match=message):
        hf.load(edited(tmp_path / "peer", tmp_path / "edited", **changes))


def test_modernberts_older_configuration(tmp_path):
    """transformers 4 wrote numbers where 5 writes lists."""
    random_peer("modernbert").save_pretrained(tmp_path / "peer")
    (tmp_path / "edited").mkdir()
    older = {
        "layer_types": None,
        "rope_parameters": None,
        "global_attn_every_n_layers": 2,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
    }
    newer = hf.load(tmp_path / "peer").model.config
    assert hf.load(edited(tmp_path / "peer", tmp_path / "edited", **older)).model.config == newer
