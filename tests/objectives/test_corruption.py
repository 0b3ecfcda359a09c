"""Words of the text in front that are masked while the one behind is learned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.errors import UsageError
from simjax.objectives.config import Seq2SeqConfig
from simjax.objectives.corruption import corrupt_front, word_starts
from simjax.objectives.masked_lm import Vocabulary
from simjax.objectives.seq2seq import Seq2Seq
from simjax.types import NO_TEXT, Batch, Block

pytestmark = pytest.mark.usefixtures("strict_promotion")

TEXTS, FRONT, BEHIND = 600, 12, 5
SPECIAL = (0, 1, 2, 3)
VOCABULARY = Vocabulary(size=1000, mask=3, special=SPECIAL, continues=tuple(range(500, 1000)))


def block(seed=0, texts=TEXTS, *, told=False):
    """A text to a row: a special token, words of one to three tokens, one behind, padding.

    What goes on a word is marked by its id, or told beside it.
    """
    random = np.random.default_rng(seed)
    tokens = random.integers(4, 500, (texts, FRONT + BEHIND)).astype(np.int32)
    goes_on = random.random(tokens.shape) < 0.4
    goes_on[:, [0, 1, FRONT - 1, FRONT]] = False
    tokens = np.where(goes_on & (not told), tokens + 499, tokens).astype(np.int32)
    tokens[:, 0], tokens[:, FRONT - 1] = 1, 2
    text = np.broadcast_to(np.arange(texts, dtype=np.int32)[:, None], tokens.shape).copy()
    text[:, -1] = NO_TEXT
    segment = np.broadcast_to(np.arange(FRONT + BEHIND) >= FRONT, tokens.shape).astype(np.int32)
    segment = np.where(text == NO_TEXT, 0, segment).astype(np.int32)
    first = np.arange(texts, dtype=np.int32) * (FRONT + BEHIND)
    places = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    return Block(tokens, places, text, first, segment, goes_on if told else None)


def words(goes_on):
    """Places of each word of a row's front, special tokens left out."""
    found = []
    for place in range(1, FRONT - 1):
        if goes_on[place] and found:
            found[-1].append(place)
        else:
            found.append([place])
    return found


@pytest.mark.parametrize("told", [False, True])
def test_whole_words_of_some_texts_are_replaced_at_their_rates(told):
    before = block(told=told)
    goes_on = before.goes_on if told else before.tokens >= 500
    after = corrupt_front(jax.random.key(0), before, 0.5, 0.4, VOCABULARY)
    tokens, changed = before.tokens, np.asarray(after.tokens)
    behind = (before.segment == 1) | (before.text == NO_TEXT) | np.isin(tokens, SPECIAL)
    np.testing.assert_array_equal(changed[behind], tokens[behind])
    touched = (changed != tokens).any(axis=1)
    # A text of four words or more is seldom chosen and spared.
    assert abs(touched.mean() - 0.5) < 0.08
    total = masked = other = 0
    for row in np.flatnonzero(touched):
        for word in words(goes_on[row]):
            new, old = changed[row, word], tokens[row, word]
            total += 1
            if (new == 3).all():
                masked += 1
            elif (new != old).any():
                assert not (new == 3).any()
                other += 1

    def close(count, share):
        return abs(count - total * share) < 5 * np.sqrt(total * share * (1 - share))

    assert total > 1000 and close(masked, 0.4 * 0.8) and close(other, 0.4 * 0.1)


def test_all_tokens_of_a_word_share_their_fate():
    goes_on = jnp.asarray([False, False, True, True, False, False, True, False])
    assert word_starts(goes_on).tolist() == [0, 1, 1, 1, 4, 5, 5, 7]
    assert word_starts(jnp.zeros(8, bool)).tolist() == list(range(8))


def test_what_is_predicted_is_not_corrupted_and_no_block_depends_on_another():
    parts = [block(seed, texts=20) for seed in (1, 2)]
    whole = Batch(
        jax.tree.map(lambda *arrays: np.stack(arrays), *parts),
        np.zeros((2, 10, 2), np.int32),
        np.zeros((2, 10), np.int32),
        np.arange(2, dtype=np.int32),
    )
    seen = {}

    def embed_and_predict(params, batch, where, targets, dropout_key, gather_layer):
        seen["tokens"], seen["targets"] = np.asarray(batch.block.tokens), np.asarray(targets)
        zeros = jnp.zeros(targets.shape, jnp.float32)
        return jnp.zeros((len(where), 20, 3)), zeros, zeros > 0

    config = Seq2SeqConfig(corrupted=1.0, rate=0.9)
    task = Seq2Seq(config, embed_and_predict, dropout=False, vocabulary=VOCABULARY)
    task.encode({}, whole, jax.random.key(0), None)
    both = dict(seen)
    behind = whole.block.segment == 1
    assert (both["tokens"] != whole.block.tokens).mean() > 0.3
    for k in (0, 1):
        wanted = whole.block.tokens[k][behind[k]]
        np.testing.assert_array_equal(both["targets"][k][both["targets"][k] >= 0], wanted)
        task.encode({}, jax.tree.map(lambda x, k=k: x[k : k + 1], whole), jax.random.key(0), None)
        np.testing.assert_array_equal(seen["tokens"][0], both["tokens"][k])
    assert (both["tokens"][0] == 3).tolist() != (both["tokens"][1] == 3).tolist()
    plain = Seq2Seq(Seq2SeqConfig(), embed_and_predict, dropout=False)
    plain.encode({}, whole, jax.random.key(0), None)
    np.testing.assert_array_equal(seen["tokens"], whole.block.tokens)


@pytest.mark.parametrize("key", ["corrupted", "rate"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_shares_out_of_range_are_refused(key, value):
    with pytest.raises(UsageError, match=rf"objective\.seq2seq\.{key} is "):
        Seq2SeqConfig(**{key: value})
