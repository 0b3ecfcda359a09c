"""Tokens one after the other with a cache, against whole passes without one."""

import dataclasses
from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest

from simjax.data.packing import pack_texts
from simjax.generate.paraphraser import Paraphraser
from simjax.generate.sampling import SamplingConfig
from simjax.generate.writing import read_front, write, write_on
from simjax.types import NO_TEXT
from tests.generate.writers import COUNT, MAX_TOKENS, writer
from tests.models.quick import quick_jit

FRONT = [2, 5, 7, 9, 6, 3]
ROOM = 6


@cache
def passes(family):
    """Logits at every place of a row, in one program for all texts."""
    encoder = writer(family)
    model, head = encoder.model, encoder.decoder.head

    def logits(block):
        places = (block.tokens, block.positions, block.text)
        states, _ = model.encoder(*places, segment=block.segment)
        return head(states[0], model.encoder.embeddings.word.embedding[...])

    return quick_jit(logits)


def whole_pass(family, front, behind):
    """Logits of the token behind each of `behind`'s, and of the first one, from one pass."""
    block = pack_texts([front + behind], rows=1, row_length=MAX_TOKENS)
    second = (block.positions >= len(front)) & (block.text != NO_TEXT)
    block = dataclasses.replace(block, segment=second.astype(np.int32))
    return np.asarray(passes(family)(block))[len(front) - 1 : len(front) + len(behind)]


@pytest.mark.parametrize("family", ["bert", "roformer", "albert"])
def test_cached_steps_give_the_logits_of_a_whole_pass(family):
    encoder = writer(family)
    behind = np.random.default_rng(0).integers(5, 40, (3, ROOM))
    padded = np.zeros(9, np.int32)
    padded[: len(FRONT)] = FRONT

    @quick_jit
    def steps(behind):
        model, head = encoder.model, encoder.decoder.head
        front = read_front(model, head, jnp.asarray(padded), jnp.int32(len(FRONT)), ROOM)
        cache, found = front.cache.repeated(3), [jnp.repeat(front.logits, 3, axis=0)]
        for number in range(ROOM):
            logits, cache = write_on(model, head, front, cache, behind[:, number], number)
            found.append(logits)
        return jnp.stack(found, axis=1)

    found = np.asarray(steps(jnp.asarray(behind)))
    for row, text in zip(found, behind.tolist(), strict=True):
        np.testing.assert_allclose(row, whole_pass(family, FRONT, text), atol=1e-4)


def test_the_likeliest_tokens_are_written_where_only_they_may_be():
    encoder = writer()
    paraphraser = Paraphraser(encoder)
    sampling = SamplingConfig(count=COUNT, top_k=1)
    tokenizer = encoder.tokenizer
    text = "the cat sit"
    front = tokenizer(text)["input_ids"]
    behind = []
    banned = [i for i in tokenizer.all_special_ids if i != tokenizer.sep_token_id]
    while len(behind) < paraphraser.longest:
        logits = whole_pass("bert", front, behind)[-1].copy()
        logits[banned if behind else tokenizer.all_special_ids] = -np.inf
        behind.append(int(logits.argmax()))
        if behind[-1] == tokenizer.sep_token_id:
            break
    expected = tokenizer.decode(behind, skip_special_tokens=True)
    finished = behind[-1] == tokenizer.sep_token_id
    assert paraphraser.draws(text, sampling) == [(expected, finished)] * COUNT


def test_a_text_ends_where_it_ends_and_nothing_special_is_written():
    paraphraser = Paraphraser(writer())
    drawn = []
    for seed in range(5):
        sampling = SamplingConfig(count=COUNT, top_p=1.0, temperature=3.0, seed=seed)
        drawn += paraphraser.draws("the man run", sampling)
    assert len(drawn) == 5 * COUNT and all(text for text, _ in drawn)
    assert 0 < sum(finished for _, finished in drawn) < len(drawn)
    assert not any("[" in text for text, _ in drawn)
    assert len({text for text, _ in drawn}) > 4 * COUNT


def test_the_seed_decides_what_is_drawn():
    paraphraser = Paraphraser(writer())
    one, same, other = (
        paraphraser.draws("a man", SamplingConfig(count=COUNT, seed=seed, temperature=2.0))
        for seed in (1, 1, 2)
    )
    assert one == same != other


def test_one_program_serves_all_texts_and_limits():
    paraphraser = Paraphraser(writer())
    paraphraser.draws("a man", SamplingConfig(count=COUNT))
    before = write._cache_size()
    cut = {"top_k": 4, "top_p": 0.5, "temperature": 0.3, "max_length": 2, "seed": 9}
    paraphraser.draws("the woman, the fish", SamplingConfig(count=COUNT, **cut))
    assert write._cache_size() == before


def test_a_shorter_limit_cuts_what_is_drawn():
    paraphraser = Paraphraser(writer())
    whole, short = (
        paraphraser.draws("a cat", SamplingConfig(count=COUNT, temperature=2.0, max_length=most))
        for most in (None, 2)
    )
    for (text, _), (cut, finished) in zip(whole, short, strict=True):
        assert text == cut if finished else text.startswith(cut)
    assert not all(finished for _, finished in short)
