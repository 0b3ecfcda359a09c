"""Texts of two segments, the second of which is predicted: who sees whom, against transformers."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from simjax.models import encoder, hf, sight
from simjax.models.sentence_model import SentenceModel, merge, split
from simjax.types import NO_TEXT
from tests.models.packed_rows import pack, random_texts, unpack
from tests.models.peers import random_peer
from tests.models.quick import quick_jit
from tests.models.test_sentence_model import CONFIG

pytestmark = pytest.mark.usefixtures("strict_promotion")

ROW = 20
FIRST = (3, 4, 1, 7, 3, 10, 2, 1)
"""Tokens in the first segment of each text; some have no second one."""


def pairs(*, together=True, texts=None):
    """Packed texts with their segments."""
    block = pack(texts or random_texts(50), ROW, together=together)
    text, positions = np.asarray(block.text), np.asarray(block.positions)
    second = positions >= np.asarray(FIRST)[np.maximum(text, 0)]
    segment = np.where((text != NO_TEXT) & second, 1, 0).astype(np.int32)
    return dataclasses.replace(block, segment=jnp.asarray(segment))


def states(model, block):
    return quick_jit(lambda b: model.encoder(b.tokens, b.positions, b.text, segment=b.segment)[0])(
        block
    )


def seen(first, length):
    """By the definition, queries before keys: what each token of one text sees."""
    mask = np.zeros((length, length), bool)
    for query in range(length):
        for key in range(length):
            mask[query, key] = key < first or (query >= first and key <= query)
    return mask


@cache
def model_of(pooling="cls_linear"):
    graphdef, params = split(SentenceModel(CONFIG, pooling, rngs=nnx.Rngs(0)))
    return merge(graphdef, params)


@pytest.mark.parametrize("family", ["bert", "roformer"])
def test_states_are_those_of_transformers_under_a_mask_written_out(family, tmp_path):
    peer = random_peer(family)
    peer.save_pretrained(tmp_path)
    texts, block = random_texts(50), pairs()
    ours = unpack(states(hf.load(tmp_path).model, block), block)
    for text, first, found in zip(texts, FIRST, ours, strict=True):
        mask = np.where(seen(first, len(text)), 0.0, -1e30)
        with torch.no_grad():
            expected = peer(
                torch.tensor([text]),
                attention_mask=torch.tensor(mask, dtype=torch.float32)[None, None],
                token_type_ids=torch.tensor([[int(n >= first) for n in range(len(text))]]),
            ).last_hidden_state[0]
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_no_state_depends_on_a_token_that_it_does_not_see():
    model, block = model_of(), pairs()
    before = np.asarray(states(model, block))
    text, segment = np.asarray(block.text), np.asarray(block.segment)
    row, column = next(zip(*np.nonzero((segment == 1) & (text == 3)), strict=True))
    column += 2
    other = dataclasses.replace(block, tokens=block.tokens.at[row, column].add(1))
    changed = np.abs(np.asarray(states(model, other)) - before).max(axis=-1) > 1e-6
    own = (text == 3) & (segment == 1)
    later = np.zeros_like(own)
    later[row, column:] = True
    np.testing.assert_array_equal(changed, own & later)


def test_packing_changes_nothing():
    apart, together = pairs(together=False), pairs()
    assert together.tokens.shape[0] < apart.tokens.shape[0]
    ours = zip(
        *(unpack(states(model_of(), block), block) for block in (apart, together)), strict=True
    )
    for alone, packed in ours:
        np.testing.assert_allclose(alone, packed, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls_linear", "mean", "last_token", "weighted_mean", "max"])
def test_the_embedding_is_that_of_the_first_segment_alone(pooling):
    texts = random_texts(50)
    alone = pack([text[:n] for text, n in zip(texts, FIRST, strict=True)], ROW, together=True)
    model, block = model_of(pooling), pairs()
    whole, expected = quick_jit(lambda a, b: (model(a), model(b)))(block, alone)
    np.testing.assert_allclose(whole, expected, atol=1e-5)


def test_long_rows_are_masked_alike(monkeypatch):
    block = pairs()
    expected = states(model_of(), block)
    monkeypatch.setattr(sight, "LONG_ROW", 8)
    monkeypatch.setattr(encoder, "_BLOCK", 6)
    real = np.asarray(block.text) != NO_TEXT
    np.testing.assert_allclose(states(model_of(), block)[real], expected[real], atol=1e-5)


def test_embeddings_and_states_from_one_pass_are_those_of_two():
    stacked, model = jax.tree.map(lambda array: array[None], pairs()), model_of()
    vectors, found, *apart = quick_jit(
        lambda b: (*model.with_states(b), model(b), model.token_states(b))
    )(stacked)
    np.testing.assert_array_equal(vectors, apart[0])
    np.testing.assert_array_equal(found, apart[1])
