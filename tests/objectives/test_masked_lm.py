"""Which tokens are masked, by what, and the loss as its formula says."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.errors import UsageError
from simjax.objectives.config import MaskedLmConfig
from simjax.objectives.masked_lm import MaskedLm, Vocabulary, corrupt
from simjax.types import NO_TEXT, Batch, Block

pytestmark = pytest.mark.usefixtures("strict_promotion")

ROWS, LENGTH = 30, 100
SPECIAL = (0, 1, 2, 3)
VOCABULARY = Vocabulary(size=1000, mask=3, special=SPECIAL)


def block(seed=0, shape=(ROWS, LENGTH)):
    """Rows whose last tenth is padding, with special tokens at every tenth place."""
    random = np.random.default_rng(seed)
    tokens = random.integers(4, 1000, shape).astype(np.int32)
    tokens[..., ::10] = random.integers(1, 3, tokens[..., ::10].shape)
    text = np.zeros(shape, np.int32)
    text[..., -shape[-1] // 10 :] = NO_TEXT
    return Block(tokens, np.zeros_like(tokens), text, np.zeros((*shape[:-2], 1), np.int32))


@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_tokens_are_masked_at_the_rate_and_replaced_as_in_bert(rate):
    before = block()
    after, where, targets = corrupt(jax.random.key(0), before, rate, VOCABULARY)
    tokens, changed = before.tokens.reshape(-1), np.asarray(after.tokens).reshape(-1)
    real = np.asarray(targets) >= 0
    where, targets = np.asarray(where)[real], np.asarray(targets)[real]
    assert (np.asarray(where) == np.unique(where)).all()
    np.testing.assert_array_equal(tokens[where], targets)
    assert not np.isin(targets, SPECIAL).any()
    assert not (before.text.reshape(-1)[where] == NO_TEXT).any()
    others = np.setdiff1d(np.arange(tokens.size), where)
    np.testing.assert_array_equal(changed[others], tokens[others])

    def close(count, total, share):
        return abs(count - total * share) < 4 * np.sqrt(total * share * (1 - share))

    ordinary = (~np.isin(tokens, SPECIAL) & (before.text.reshape(-1) != NO_TEXT)).sum()
    assert close(len(where), ordinary, rate)
    masked, kept = changed[where] == 3, changed[where] == targets
    assert close(masked.sum(), len(where), 0.8)
    assert close(kept.sum(), len(where), 0.1)
    assert len(np.unique(changed[where][~masked & ~kept])) > 0.8 * (~masked & ~kept).sum()


def test_a_rate_of_one_chooses_every_ordinary_token():
    before = block(shape=(2, 20))
    _, _, targets = corrupt(jax.random.key(0), before, 1.0, VOCABULARY)
    ordinary = ~np.isin(before.tokens, SPECIAL) & (before.text != NO_TEXT)
    assert (np.asarray(targets) >= 0).sum() == ordinary.sum()


def batch(blocks=4):
    parts = block(seed=3, shape=(blocks, 3, 20))
    places = np.arange(blocks, dtype=np.int32)
    return Batch(parts, np.zeros((blocks, 1, 1), np.int32), np.zeros((blocks, 1), np.int32), places)


def guess(params, batch, where, targets, dropout_key, gather_layer):
    """A model whose logits are those of the token before, by a table."""
    tokens = jnp.asarray(batch.block.tokens).reshape(where.shape[0], -1)
    before = jnp.take_along_axis(tokens, jnp.clip(where - 1, 0, tokens.shape[1] - 1), axis=1)
    logits = params[before]
    own = jnp.take_along_axis(logits, jnp.maximum(targets, 0)[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - own, own >= logits.max(axis=-1)


def test_the_sums_are_their_definition_in_float64():
    whole = batch()
    table = np.random.default_rng(0).normal(size=(1000, 1000)).astype(np.float32)
    key = jax.random.key(5)
    task = MaskedLm(MaskedLmConfig(rate=0.3), VOCABULARY, guess, dropout=False)
    sums = task.sums(jnp.asarray(table), whole, key, None)

    mask_key, _ = jax.random.split(key)
    total = count = right = 0
    for place in range(4):
        own = jax.tree.map(lambda x, place=place: x[place], whole.block)
        after, where, targets = corrupt(jax.random.fold_in(mask_key, place), own, 0.3, VOCABULARY)
        tokens = np.asarray(after.tokens).reshape(-1)
        for spot, target in zip(np.asarray(where), np.asarray(targets), strict=True):
            if target < 0:
                continue
            logits = table[tokens[max(spot - 1, 0)]].astype(np.float64)
            total += np.log(np.exp(logits).sum()) - logits[target]
            count, right = count + 1, right + (logits.argmax() == target)
    assert count > 30
    np.testing.assert_allclose(float(sums.loss), total, rtol=1e-5)
    assert float(sums.weight) == count and float(sums.metrics["accuracy"]) == right


def test_a_block_is_masked_the_same_whatever_is_beside_it():
    whole, key = batch(), jax.random.key(1)
    task = MaskedLm(MaskedLmConfig(rate=0.3), VOCABULARY, guess, dropout=False)
    table = jnp.asarray(np.random.default_rng(0).normal(size=(1000, 1000)).astype(np.float32))
    parts = [jax.tree.map(lambda x, i=i: x[i : i + 2], whole) for i in (0, 2)]
    apart = [task.sums(table, part, key, None) for part in parts]
    together = task.sums(table, whole, key, None)
    np.testing.assert_allclose(apart[0].loss + apart[1].loss, together.loss, rtol=1e-6)
    assert apart[0].weight + apart[1].weight == together.weight
    moved = replace(whole, place=whole.place[::-1].copy())
    assert abs(float(task.sums(table, moved, key, None).loss - together.loss)) > 1e-3


@pytest.mark.parametrize("key", ["weight", "rate"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_numbers_out_of_range_are_refused(key, value):
    with pytest.raises(UsageError, match=rf"objective\.mlm\.{key} is "):
        MaskedLmConfig(**{key: value})
