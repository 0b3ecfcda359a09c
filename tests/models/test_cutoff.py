"""Cutoffs and shared dropout masks: which numbers become zero, and what decides it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from simjax.models.cutoff import Cutoff, cut
from simjax.models.encoder import EncoderConfig
from simjax.models.sentence_model import SentenceModel
from simjax.types import NO_TEXT, Block
from tests.models.packed_rows import LENGTHS, pack, random_texts
from tests.models.quick import quick_jit

pytestmark = pytest.mark.usefixtures("strict_promotion")

WIDTH = 24
KEY = jax.random.key(5)


def blocks(*, together=True, count=1):
    """The same block, several times."""
    one = pack(random_texts(50), 16, together=together)
    return jax.tree.map(lambda x: jnp.stack([x] * count), one)


def gone(cutoff, block, place=(3,), key=KEY):
    """Of each text of the first block, which features of which tokens are zero."""
    x = jnp.ones((block.text.shape[0] * block.text.shape[1], 16, WIDTH), jnp.float32)
    cutoffs = cutoff if isinstance(cutoff, tuple) else (cutoff,)
    y = np.asarray(quick_jit(cut, static_argnums=1)(x, cutoffs, block, jnp.asarray(place), key))
    assert set(np.unique(y)) <= {0.0, 1.0}
    first, text = y.reshape(*block.text.shape, WIDTH)[0] == 0, np.asarray(block.text[0])
    assert not first[text == NO_TEXT].any()
    return [first[text == number] for number in range(len(LENGTHS))]


@pytest.mark.parametrize("rate", [0.2, 0.3, 0.7])
def test_tokens_are_cut_whole_and_in_their_number(rate):
    for zeros, length in zip(gone(Cutoff("tokens", rate, (True,)), blocks()), LENGTHS, strict=True):
        assert zeros.shape == (length, WIDTH)
        assert (zeros.all(axis=1) == zeros.any(axis=1)).all()
        assert zeros.any(axis=1).sum() == int(rate * length)


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_features_are_cut_of_all_tokens_and_in_their_number(rate):
    found = gone(Cutoff("features", rate, (True,)), blocks())
    for zeros in found:
        assert (zeros == zeros[:1]).all() and zeros[0].sum() == int(rate * WIDTH)
    assert len({tuple(zeros[0]) for zeros in found}) == len(LENGTHS)


@pytest.mark.parametrize("kind", ["features", "tokens"])
def test_only_the_views_that_are_named_are_cut(kind):
    found = gone(Cutoff(kind, 0.5, (False, True)), blocks())
    assert [bool(zeros.any()) for zeros in found] == [
        number % 2 == 1 and (kind == "features" or length > 1)
        for number, length in enumerate(LENGTHS)
    ]


@pytest.mark.parametrize("kind", ["features", "tokens"])
def test_the_packing_and_the_other_blocks_do_not_matter(kind):
    cutoff = Cutoff(kind, 0.4, (True,))
    expected = gone(cutoff, blocks())
    padded = gone(cutoff, blocks(together=False))
    among_others = gone(cutoff, blocks(count=3), (3, 8, 1))
    for one, other, third in zip(expected, padded, among_others, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, third)
    for place, key in (((4,), KEY), ((3,), jax.random.key(6))):
        other = gone(cutoff, blocks(), place, key)
        assert any((one != two).any() for one, two in zip(expected, other, strict=True))


def test_two_cutoffs_are_drawn_apart():
    both = gone((Cutoff("tokens", 0.5, (True,)), Cutoff("tokens", 0.5, (True,))), blocks())
    alone = gone(Cutoff("tokens", 0.5, (True,)), blocks())
    assert sum(zeros.any(1).sum() for zeros in both) > sum(zeros.any(1).sum() for zeros in alone)


@pytest.mark.parametrize("kind", ["features", "tokens"])
def test_all_are_as_likely(kind):
    block, cutoff = blocks(count=1), Cutoff(kind, 0.25, (True,))
    x = jnp.ones((block.text.shape[1], 16, WIDTH), jnp.float32)
    keys = jax.random.split(KEY, 1500)
    run = quick_jit(jax.vmap(lambda key: cut(x, (cutoff,), block, jnp.asarray([0]), key)))
    zeros = np.asarray(run(keys) == 0)[:, np.asarray(block.text[0]) == 5]  # of 16 tokens
    counts = zeros.any(axis=1 if kind == "features" else 2).sum(axis=0)
    assert counts.sum() == 1500 * (6 if kind == "features" else 4)
    # Draws without replacement vary less than a chi-square statistic of free ones.
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.fixture(scope="module")
def model():
    shape = EncoderConfig(
        vocab_size=50,
        hidden_size=WIDTH,
        num_layers=2,
        num_heads=3,
        intermediate_size=40,
        max_positions=16,
        initializer_range=0.2,
    )
    return SentenceModel(shape, "mean", rngs=nnx.Rngs(0))


def test_a_model_cuts_its_embeddings_and_packing_does_not_matter(model):
    cutoffs = (Cutoff("features", 0.25, (False, True)), Cutoff("tokens", 0.3, (True, False)))

    @quick_jit
    def embed(block, cutoff_key):
        return model(block, place=jnp.asarray([7]), cutoffs=cutoffs, cutoff_key=cutoff_key)[0]

    packed, padded = embed(blocks(), KEY), embed(blocks(together=False), KEY)
    np.testing.assert_allclose(packed, padded, rtol=2e-5, atol=2e-6)
    plain = quick_jit(lambda block: model(block)[0])(blocks())
    changed = np.abs(np.asarray(packed - plain)).max(axis=1) > 1e-3
    # Of one to three tokens none is cut at this rate.
    assert changed.tolist() == [
        number % 2 == 1 or int(0.3 * length) > 0 for number, length in enumerate(LENGTHS)
    ]


def groups_of(*, shift=0):
    """Two views of four texts in rows of their own: views 0 in the first half, 1 in the second."""
    texts = random_texts(50, (5, 9, 1, 12))
    one = pack(texts, 16, together=True)
    rows = one.tokens.shape[0]

    def both(x, y):
        return jnp.concatenate([x, y])[None]

    text = jnp.where(one.text == NO_TEXT, NO_TEXT, 2 * one.text)
    other = jnp.where(one.text == NO_TEXT, NO_TEXT, 2 * one.text + 1)
    first = jnp.stack([one.first, one.first + 16 * (rows + shift)], axis=1).reshape(1, -1)
    tokens = both(one.tokens, one.tokens)
    return Block(tokens, both(one.positions, one.positions), both(text, other), first)


def test_views_that_share_masks_are_dropped_alike(model):
    block = groups_of()

    @quick_jit
    def embed(key):
        return [
            model(block, dropout_key=key, place=jnp.asarray([2]), mask_groups=groups)[0]
            for groups in (1, 2)
        ]

    own, shared = embed(KEY)
    assert (shared[0::2] == shared[1::2]).all()
    assert (own[0::2] != own[1::2]).any(axis=1).all()
    # The first group's masks are those that it has by itself.
    np.testing.assert_array_equal(own[0::2], shared[0::2])
