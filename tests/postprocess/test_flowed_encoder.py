"""What a flow does to an encoder, to its folder, and to those who do not know of flows."""

import json
import shutil
from itertools import islice

import jax
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from simjax.errors import SimjaxError, UsageError
from simjax.inference.bulk import encode_to_file
from simjax.inference.embedder import Embedder
from simjax.inference.flowed import flowed
from simjax.inference.whitened import whitened
from simjax.model_card import WITHOUT_FLOW
from simjax.models.latents import LatentsConfig
from simjax.sentence_encoder import SentenceEncoder
from simjax.train.config import ModelConfig, RunConfig
from simjax.train.start import make_model
from tests.generate.writers import writer
from tests.postprocess.flows import in_numpy, made_flow
from tests.tiny_models import SENTENCES, WIDTH, write_folder

RANK = WIDTH - 1
TEXTS = [f"{text} {i}" for i in range(20) for text in SENTENCES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("bert"), "bert", layers=1)


@pytest.fixture(scope="module")
def plain(folder):
    return SentenceEncoder.from_pretrained(folder, normalize=True)


@pytest.fixture(scope="module")
def encoder(plain):
    return plain.rebuilt(plain.model, made_flow(WIDTH, RANK, "affine", size=0.2, dtype=np.float32))


@pytest.fixture(scope="module")
def expected(plain, encoder):
    """Of TEXTS, before they are scaled."""
    return in_numpy(encoder.flow, plain.encode(TEXTS, normalize=False))[0]


@pytest.fixture(scope="module")
def saved(encoder, tmp_path_factory):
    return encoder.save_pretrained(tmp_path_factory.mktemp("saved") / "model")


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_everything_that_embeds_goes_through_the_flow(encoder, expected, tmp_path, monkeypatch):
    assert np.abs(unit(expected)[0] - unit(expected)[1]).max() > 0.05
    close = {"atol": 1e-5}
    np.testing.assert_allclose(encoder.encode(TEXTS), unit(expected), **close)
    np.testing.assert_allclose(encoder.encode(TEXTS, normalize=False), expected, atol=1e-4)
    np.testing.assert_allclose(
        encoder.encode(TEXTS, truncate_dim=5, normalize=True), unit(expected[:, :5]), **close
    )
    with pytest.raises(UsageError, match=f"embeddings have {RANK} dimensions"):
        encoder.encode(TEXTS, truncate_dim=WIDTH)
    monkeypatch.setattr(Embedder, "window", lambda self, source, most_tokens: islice(source, 13))
    np.testing.assert_allclose(
        np.vstack(list(encoder.encode_stream(TEXTS))), unit(expected), **close
    )
    assert encode_to_file(encoder, TEXTS, tmp_path / "x.npy") == (len(TEXTS), RANK)
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), unit(expected), **close)
    encoder.build_index(TEXTS)
    hits = encoder.search(TEXTS[3], top_k=5)
    scores = unit(expected) @ unit(expected)[3]
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1][:5], **close)
    # Numbers are unknown words here, so that several texts share a vector: any of them may lead.
    found = [scores[TEXTS.index(hit.sentence)] for hit in hits]
    np.testing.assert_allclose([hit.score for hit in hits], found, **close)


def test_devices_share_the_flow(folder, encoder, expected):
    shared = SentenceEncoder.from_pretrained(folder, devices=jax.devices()[:2], normalize=True)
    shared = shared.rebuilt(shared.model, encoder.flow)
    blocks = []
    run = shared._embedder._shared
    shared._embedder._shared = lambda *args: blocks.append(run(*args)) or blocks[-1]
    np.testing.assert_allclose(shared.encode(TEXTS, batch_size=2), unit(expected), atol=1e-5)
    assert blocks and len(blocks[0].sharding.device_set) == 2


def test_a_model_with_a_flow_is_another_one(plain, encoder):
    assert plain.fingerprint() != encoder.fingerprint()
    other = made_flow(WIDTH, RANK, "affine", size=0.3, dtype=np.float32)
    assert plain.rebuilt(plain.model, other).fingerprint() != encoder.fingerprint()
    assert encoder.replace(encoder.params).fingerprint() == encoder.fingerprint()


def test_the_folder_is_the_same_encoder(encoder, saved, tmp_path):
    again = SentenceEncoder.from_pretrained(saved)
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    assert again.fingerprint() == encoder.fingerprint()
    copied = again.save_pretrained(tmp_path / "copy")
    flow = saved / "flow" / "model.safetensors"
    assert (copied / "flow" / "model.safetensors").read_bytes() == flow.read_bytes()
    # Another pooling has other vectors, which the flow was not fitted to.
    assert SentenceEncoder.from_pretrained(saved, pooling="cls").flow is None
    assert SentenceEncoder.from_pretrained(saved, pooling="mean").flow is not None


def test_others_load_it_without_the_flow_and_the_card_says_so(plain, saved):
    peer = SentenceTransformer(str(saved), device="cpu")
    np.testing.assert_allclose(peer.encode(TEXTS), plain.encode(TEXTS), atol=1e-5)
    assert WITHOUT_FLOW[1:] in (saved / "README.md").read_text()
    assert f"maps texts to {RANK} dimensions" in (saved / "README.md").read_text()


def test_a_flow_that_is_lost_is_missed(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "flow")
    with pytest.raises(SimjaxError, match="flow is 'flow', and there is no such folder"):
        SentenceEncoder.from_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config_sentence_transformers.json"
    content = json.loads(path.read_text())
    assert content.pop("flow") == "flow"
    path.write_text(json.dumps(content))
    assert SentenceEncoder.from_pretrained(tmp_path / "model").flow is None


def test_nothing_is_put_behind_latents(tmp_path):
    plain = writer(latents=LatentsConfig(layers=2, size=5)).save_pretrained(tmp_path / "model")
    encoder = SentenceEncoder.from_pretrained(plain, pooling="latents")
    with pytest.raises(UsageError, match="the embeddings are latents"):
        whitened(encoder, TEXTS)
    with pytest.raises(UsageError, match="the embeddings are latents"):
        flowed(encoder, lambda: TEXTS, tmp_path / "work")


def test_nothing_is_put_behind_a_flow(encoder, saved):
    with pytest.raises(UsageError, match="the model has a flow, behind which nothing"):
        whitened(encoder, TEXTS)
    config = RunConfig(output="x", model=ModelConfig(pretrained=str(saved)))
    with pytest.raises(UsageError, match="has a flow, which fits its embeddings as they are"):
        make_model(config, encoder.tokenizer)
