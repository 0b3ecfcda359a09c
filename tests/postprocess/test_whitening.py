"""Whitening beside NumPy in float64, and its folders beside sentence-transformers."""

from itertools import islice

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from simjax.errors import SimjaxError, UsageError
from simjax.eval.moments import Moments
from simjax.inference.embedder import Embedder
from simjax.inference.whitened import whitened
from simjax.postprocess.whitening import whitening
from simjax.sentence_encoder import SentenceEncoder
from tests.tiny_models import SENTENCES, write_folder


def vectors(n, width, seed=0):
    """Correlated, and far from 0 beside what they vary by."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) + 30 * rng.normal(
        size=width
    )


def of(x):
    return Moments.of(x)


@pytest.mark.parametrize("k", [None, 1, 5, 8])
def test_whitening_is_the_published_formula(k):
    x = vectors(300, 8)
    found = whitening(of(x), k)
    # As the paper writes it, with a singular value decomposition.
    mean = x.mean(axis=0, keepdims=True)
    u, variances, _ = np.linalg.svd(np.cov(x.T, bias=True))
    expected = (x - mean) @ (u @ np.diag(1 / np.sqrt(variances)))[:, : k or 8]
    y = x @ found.layer.weight.T.astype(np.float64) + found.layer.bias
    # Axes have no sign.
    signs = np.sign(np.sum(y * expected, axis=0))
    np.testing.assert_allclose(y * signs, expected, atol=1e-4)
    np.testing.assert_allclose(np.cov(y.T, bias=True), np.eye(k or 8), atol=1e-4)
    assert found.layer.weight.dtype == found.layer.bias.dtype == np.float32
    assert found.kept == pytest.approx(variances[: k or 8].sum() / variances.sum())


def test_too_few_sentences():
    x = vectors(6, 8)
    with pytest.raises(SimjaxError, match=r"to 8 dimensions needs at least 9 .* there are 6"):
        whitening(of(x))
    with pytest.raises(SimjaxError, match=r"at least 7 .* or a dimension of at most 5$"):
        whitening(of(x), 6)
    whitening(of(x), 5)
    with pytest.raises(SimjaxError, match=r"there is 1: give more$"):
        whitening(of(x[:1]), 1)
    for k in (0, 9):
        with pytest.raises(UsageError, match="have 8; choose from 1"):
            whitening(of(x), k)


@pytest.mark.parametrize("kind", ["repeated", "constant", "linear", "rounding"])
def test_directions_without_variance_are_refused(kind):
    x = vectors(200, 8)
    if kind == "repeated":
        x = np.tile(x[:6], (50, 1))
    elif kind == "constant":
        x[:, 5:] = 3.0
    elif kind == "linear":
        x[:, 5:] = x[:, :3] + x[:, 2:5]
    else:
        x[:, 5:] = x[:, :3]
        x = x.astype(np.float32) * np.float32(1 + 1e-7 * np.random.default_rng(0).normal(size=8))
    with pytest.raises(SimjaxError, match=r"vary in 5 of 8 .* for whitening to 6.* at most 5$"):
        whitening(of(x), 6)
    found = whitening(of(x), 5)
    y = x @ found.layer.weight.T.astype(np.float64) + found.layer.bias
    np.testing.assert_allclose(np.cov(y.T, bias=True), np.eye(5), atol=1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("bert"), "bert", layers=1)


TEXTS = [f"{text} {word} {i}" for i in range(9) for text in SENTENCES for word in ("cat", "dog")]


@pytest.mark.parametrize("normalize", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_sentence_transformers_whitens_as_we_do(folder, tmp_path, normalize, monkeypatch):
    monkeypatch.setattr(
        Embedder, "window", lambda self, source, most_tokens: islice(source, 13)
    )  # several parts
    encoder = SentenceEncoder.from_pretrained(folder, normalize=normalize)
    new, found = whitened(encoder, [" ", *TEXTS, ""], dimension=10)
    assert found.sentences == len(TEXTS)
    saved = new.save_pretrained(tmp_path / "white")
    ours = SentenceEncoder.from_pretrained(saved).encode(TEXTS)
    peer = SentenceTransformer(str(saved), device="cpu")
    assert peer.get_embedding_dimension() == 10
    np.testing.assert_allclose(peer.encode(TEXTS), ours, atol=1e-5)
    np.testing.assert_allclose(new.encode(TEXTS), ours, atol=1e-6)

    # Fitted by hand on the other library's embeddings.
    x = SentenceTransformer(str(folder), device="cpu").encode(TEXTS).astype(np.float64)
    variances, axes = np.linalg.eigh(np.cov(x.T, bias=True))
    expected = (x - x.mean(axis=0)) @ axes[:, ::-1][:, :10] / np.sqrt(variances[::-1][:10])
    if normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    signs = np.sign(np.sum(ours * expected, axis=0))
    np.testing.assert_allclose(ours * signs, expected, atol=1e-3)


def test_a_whitened_model_is_whitened_again(folder):
    encoder = SentenceEncoder.from_pretrained(folder)
    once, _ = whitened(encoder, TEXTS, dimension=10)
    twice, found = whitened(once, TEXTS, dimension=4)
    assert found.kept == pytest.approx(0.4, abs=1e-3)
    assert twice.encode(TEXTS).shape == (len(TEXTS), 4)
    assert encoder.encode("a cat").shape == (32,)  # which is left as it was
    assert len({e.fingerprint() for e in (encoder, once, twice)}) == 3
    with pytest.raises(UsageError, match="takes 10 features, and embeddings have 32"):
        encoder.model.append(found.layer)
