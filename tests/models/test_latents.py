"""Latents in the last layers, against transformers' layers under masks that are written out."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from scipy.stats import norm

from simjax.data.paraphrases import pack_pairs
from simjax.errors import UsageError
from simjax.models import hf, latents
from simjax.models.encoder import EncoderConfig
from simjax.models.latents import Latents, LatentsConfig, Posterior
from simjax.models.sentence_model import merge, split
from simjax.types import NO_TEXT
from tests.models.packed_rows import pack
from tests.models.peers import random_peer
from tests.models.quick import quick_jit

pytestmark = pytest.mark.usefixtures("strict_promotion")

SPHERE = LatentsConfig(layers=2, size=5, kappa=20.0)
NORMAL = LatentsConfig("gaussian", layers=2, size=5)
ROW, LENGTHS = 24, (5, 3, 9, 0, 4, 11)
"""Text 3 is absent."""


def texts(seed=0):
    random = np.random.default_rng(seed)
    return [[2, *random.integers(5, 50, n - 2), 3] if n else [] for n in LENGTHS]


def packed(fronts, behinds):
    """One block: each text in front of another one, several to a row."""
    pairs = list(zip(fronts, behinds, strict=True))
    tokens = np.asarray([token for pair in pairs for text in pair for token in text], np.int32)
    lengths = np.asarray([[len(text) for text in pair] for pair in pairs])
    starts = (np.cumsum(lengths) - lengths.ravel()).reshape(lengths.shape)
    (row, column), end, used = np.zeros((2, len(pairs)), int).tolist(), 0, 0
    for number, length in enumerate(lengths.sum(axis=1).tolist()):
        if used + length > ROW:
            end, used = end + 1, 0
        row[number], column[number], used = end, used, used + length
    block = pack_pairs(
        tokens, starts[None], lengths[None], np.asarray([row]), np.asarray([column]),
        rows=end + 1, row_length=ROW, whole=True,
    )  # fmt: skip
    return jax.tree.map(jnp.asarray, block)


@cache
def parts(config=SPHERE, family="bert"):
    """An encoder of transformers, the same of ours, and latents with large parameters."""
    peer = random_peer(family)
    shape = hf.config_from_hf(peer.config.to_dict(), None)
    random = np.random.default_rng(1)
    graphdef, params = split(Latents(config, shape, rngs=nnx.Rngs(0)))
    params = jax.tree.map(
        lambda p: jnp.asarray(p + 0.3 * random.normal(size=p.shape), jnp.float32), params
    )
    return peer, merge(graphdef, params)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peer")
    parts()[0].save_pretrained(folder)
    return hf.load(folder).model


def run(model, own, block, choose=latents.means, **options):
    return quick_jit(
        lambda block: latents.pass_through(model.encoder, own, block, choose, **options)
    )(block)


def seen(front, length, *, first):
    """By the definition, queries before keys: what each token of a text and of its copy sees."""
    mask = np.zeros((length, length), bool)
    for query in range(length):
        for key in range(length):
            alike = (query < front) == (key < front)
            mask[query, key] = alike and (query < front or key <= query)
            mask[query, key] |= first and key == 0
    return mask


def by_transformers(peer, own, front, behind):
    """States of one text and one behind it, and its latents, layer by layer in PyTorch."""
    inward, outward = (
        (np.asarray(dense.kernel[...]), np.asarray(dense.bias[...]))
        for dense in (own.layers.inward, own.layers.outward)
    )
    length = len(front) + len(behind)
    places = [*range(len(front)), *range(len(behind))]
    kinds = [0] * len(front) + [1] * len(behind)
    found = []
    with torch.no_grad():
        x = peer.embeddings(
            torch.tensor([front + behind]),
            token_type_ids=torch.tensor([kinds]),
            position_ids=torch.tensor([places]),
        )
        below = len(peer.encoder.layer) - own.config.layers
        for number, layer in enumerate(peer.encoder.layer):
            if number >= below:
                at = number - below
                read = x[0, 0].double().numpy() @ inward[0][at] + inward[1][at]
                latent = read / np.linalg.norm(read)
                found.append(latent)
                x = x.clone()
                x[0, 0] = torch.tensor(latent @ outward[0][at] + outward[1][at])
            mask = np.where(seen(len(front), length, first=number >= below), 0.0, -1e30)
            x = layer(x, torch.tensor(mask, dtype=torch.float32)[None, None])
            x = x[0] if isinstance(x, tuple) else x
    return x[0].numpy(), np.stack(found)


def test_states_and_latents_are_those_of_transformers(model):
    peer, own = parts()
    fronts, behinds = texts(), texts(1)
    block = packed(fronts, behinds)
    found = run(model, own, jax.tree.map(lambda x: x[0][None], block))
    states, text = np.asarray(found.states)[0], np.asarray(block.text).reshape(-1)
    for number, (front, behind) in enumerate(zip(fronts, behinds, strict=True)):
        if not front:
            assert not (text == number).any()
            continue
        expected, read = by_transformers(peer, own, front, behind)
        np.testing.assert_allclose(states[text == number], expected, atol=3e-5)
        np.testing.assert_allclose(found.latents[:, 0, number], read, atol=1e-5)


@pytest.mark.parametrize("config", [SPHERE, NORMAL], ids=lambda config: config.kind)
def test_with_latents_fixed_nothing_in_front_changes_a_state_behind(model, config):
    _, own = parts(config)
    behinds = texts(1)
    fixed = latents.prior(config, jax.random.key(5), 1 * len(LENGTHS))[:, None]

    def behind(fronts, choose):
        block = packed(fronts, behinds)
        states = np.asarray(run(model, own, block, choose).states)[0]
        text, second = (np.asarray(x).reshape(-1) for x in (block.text, block.segment))
        return [states[(text == n) & (second == 1)] for n in range(len(LENGTHS)) if LENGTHS[n]]

    other = texts(2)
    # A longer and a shorter text in front of two of them.
    other[0], other[2] = other[0] + [7, 9, 11], other[2][:4]
    for one, two in zip(*(behind(f, latents.given(fixed)) for f in (texts(), other)), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    # Latents of their own do tell them apart.
    for one, two in zip(*(behind(f, latents.means) for f in (texts(), other)), strict=True):
        assert np.abs(one - two).max() > 1e-2


def test_what_is_in_front_sees_nothing_behind(model):
    _, own = parts()
    one, two = (run(model, own, packed(texts(), texts(seed))) for seed in (1, 2))
    np.testing.assert_allclose(one.latents, two.latents, atol=1e-6)


@pytest.mark.parametrize("config", [SPHERE, NORMAL], ids=lambda config: config.kind)
def test_draws_follow_the_block_s_place_and_nothing_else(model, config):
    _, own = parts(config)
    block = packed(texts(), texts())
    three = jax.tree.map(lambda x: jnp.repeat(x, 3, axis=0), block)
    key = jax.random.key(7)
    together = run(model, own, three, latents.drawn(config, key, jnp.asarray([4, 0, 9])))
    for number, place in enumerate((4, 0, 9)):
        alone = run(model, own, block, latents.drawn(config, key, jnp.asarray([place])))
        np.testing.assert_allclose(together.latents[:, number], alone.latents[:, 0], atol=1e-5)
        np.testing.assert_allclose(together.states[number], alone.states[0], atol=1e-4)
    there = np.asarray(LENGTHS) > 0
    drawn = np.asarray(together.latents)[:, :, there]
    means = np.asarray(run(model, own, three).latents)[:, :, there]
    # No two draws are one, of layers, blocks or texts.
    noise = np.round((drawn - means).reshape(-1, config.size), 4)
    assert len(np.unique(noise, axis=0)) == len(noise)


def test_the_divergence_of_normal_latents_is_that_of_densities():
    random = np.random.default_rng(0)
    mean, log_variance = random.normal(size=(2, 1, 1, 3))
    posterior = Posterior(jnp.asarray(mean, jnp.float32), jnp.asarray(log_variance, jnp.float32))
    found = latents.divergence_of(dataclasses.replace(NORMAL, size=3), posterior)
    total = 0.0
    for m, v in zip(mean.ravel(), log_variance.ravel(), strict=True):
        z = np.linspace(m - 12 * np.exp(v / 2), m + 12 * np.exp(v / 2), 20_001)
        own = norm(m, np.exp(v / 2))
        density = own.pdf(z) * (own.logpdf(z) - norm.logpdf(z))
        total += 0.5 * ((density[1:] + density[:-1]) * np.diff(z)).sum()
    np.testing.assert_allclose(float(found[0, 0]), total, rtol=1e-5)


def test_the_embedding_is_the_latents_side_by_side(model):
    _, own = parts()
    embed = quick_jit(lambda block: latents.embed(model.encoder, own, block))
    block = packed(texts(), texts())
    read = np.asarray(run(model, own, block).latents)[:, 0]  # [S, T, Z]
    expected = np.moveaxis(read, 0, 1).reshape(len(LENGTHS), -1) / np.sqrt(SPHERE.layers)
    expected[3] = 0.0
    found = embed(block)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found[0, 0]), 1, atol=1e-5)
    # One block, of texts that have none behind them.
    there = [text for text in texts() if text]
    alone = embed(pack(there, ROW, together=True))
    np.testing.assert_allclose(alone, np.delete(expected, 3, axis=0), atol=1e-5)


def test_between_two_texts_latents_turn_at_an_even_pace():
    random = np.random.default_rng(0)
    one, other = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in random.normal(size=(2, 2, 5))
    )
    angle = np.arccos((one * other).sum(axis=1))
    for share in (0.0, 0.3, 1.0):
        found = latents.interpolated(
            SPHERE, *(jnp.asarray(x, jnp.float32) for x in (one, other)), jnp.asarray([share, 0.0])
        )
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(
            np.arccos(np.minimum(found[0] @ one[0], 1)), share * angle[0], atol=2e-3
        )
        np.testing.assert_allclose(
            np.arccos(np.minimum(found[0] @ other[0], 1)), (1 - share) * angle[0], atol=2e-3
        )
        np.testing.assert_allclose(found[1], one[1], atol=1e-6)
    same = latents.interpolated(SPHERE, *[jnp.asarray(one, jnp.float32)] * 2, jnp.full(2, 0.5))
    np.testing.assert_allclose(same, one, atol=1e-5)
    straight = latents.interpolated(
        NORMAL, *(jnp.asarray(x, jnp.float32) for x in (one, other)), jnp.asarray([0.25, 1.0])
    )
    np.testing.assert_allclose(straight, [0.75 * one[0] + 0.25 * other[0], other[1]], atol=1e-6)


def test_padding_is_not_written_to(model):
    """An absent text's first place is 0, where another text begins."""
    _, own = parts()
    fronts = [[], *texts()[:3]]
    block = packed(fronts, fronts)
    without = packed(fronts[1:], fronts[1:])
    one, two = (run(model, own, b) for b in (block, without))
    assert int(block.first[0, 0]) == 0 and np.asarray(block.text)[0, 0, 0] == 1
    real = np.asarray(block.text).reshape(-1) != NO_TEXT
    np.testing.assert_allclose(one.states[0][real], two.states[0][real], atol=1e-6)
    assert (np.asarray(one.divergence)[:, 0, 0] == 0).all()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "vmf"}, r"model\.latents\.kind is 'vmf': choose from von_mises_fisher, gaussian"),
        ({"layers": 0}, r"model\.latents\.layers is 0: give at least 1"),
        ({"size": 1}, r"model\.latents\.size is 1: give at least 2"),
        ({"kappa": 0.0}, r"model\.latents\.kappa is 0\.0: give a number above 0, up to 10,000"),
        ({"kappa": float("nan")}, r"model\.latents\.kappa is nan"),
        ({"kappa": 1e9}, r"model\.latents\.kappa is 1000000000\.0: give a number above 0"),
    ],
)
def test_faulty_settings_are_refused(settings, says):
    with pytest.raises(UsageError, match=says):
        LatentsConfig(**settings)


@pytest.mark.parametrize("layers", [4, 5])
def test_more_latent_layers_than_layers_are_refused(layers):
    with pytest.raises(UsageError, match=rf"layers is {layers} and the encoder has 4 layers"):
        Latents(LatentsConfig(layers=layers), EncoderConfig(num_layers=4), rngs=nnx.Rngs(0))
