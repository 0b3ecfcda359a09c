"""Short runs on a made-up corpus, with an encoder of a few numbers."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.lab.precision import arms, batches, texts
from simjax.lab.precision.settings import TrainingSettings
from simjax.lab.precision.training import LOGGED, RunKey, Trainer, keys, rates
from simjax.models.sentence_model import merge
from simjax.objectives.contrastive import unit
from tests.lab.precision.tiny_corpus import CORPUS, TINY

KEY = RunKey("softplus", "sgd", 0.01, 4, "float32", 0)


@pytest.fixture(scope="module")
def trainer():
    return Trainer(CORPUS, TINY)


def leaves(params):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def test_keys_are_every_run_once():
    settings = TrainingSettings()
    made = list(keys(settings))
    assert len(set(made)) == len(made)
    per_arm = {arm: len(rates(settings, "sgd", arm)) for arm in settings.arms}
    expected = 5 * 2 * 5 * (4 * len(settings.adamw_rates) + sum(per_arm.values()))
    assert len(made) == expected
    assert rates(settings, "sgd", "softplus") == rates(settings, "sgd", "cross_entropy")
    assert rates(settings, "adamw", "flatnce") == rates(settings, "adamw", "softplus")
    # Runs that share a compiled step stand together.
    kinds = [(key.batch, key.dtype, key.optimizer, key.arm) for key in made]
    assert sum(a != b for a, b in itertools.pairwise(kinds)) + 1 == len(set(kinds))


def test_steps():
    settings = TrainingSettings(examples=100, least_steps=5, most_steps=20)
    assert [settings.steps(batch) for batch in (4, 10, 64)] == [20, 10, 5]


def test_a_run_repeats_itself_and_leaves_its_start_alone(trainer):
    start = leaves(trainer.start(0))
    first, again = (trainer.run(KEY) for _ in range(2))
    assert first == again
    assert all(map(np.array_equal, leaves(trainer.start(0)), start))
    other = trainer.run(dataclasses.replace(KEY, seed=1))
    assert other["scores"] != first["scores"]
    assert set(first["history"]) == set(LOGGED) and first["dropped"] == 0
    assert set(first["scores"]) == {
        *("ndcg@10", "spearman", "select/ndcg@10", "select/spearman"),
        *("alignment", "uniformity"),
    }


def test_the_rate_is_what_moves_it(trainer):
    start = leaves(trainer.start(0))
    still = leaves(trainer.train(dataclasses.replace(KEY, rate=0.0)))
    assert all(map(np.array_equal, start, still))
    moves = []
    for rate in (1e-5, 2e-5):
        ended = leaves(trainer.train(dataclasses.replace(KEY, rate=rate)))
        moves.append(np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(ended, start, strict=True))))
    assert moves[1] == pytest.approx(2 * moves[0], rel=0.1)


def test_sgd_is_plain_and_unclipped(trainer):
    """One update is the learning rate times the gradient of the loss as it is written."""
    start = trainer.start(0)
    made = trainer._batches(4, 2)[0][:1]
    graphdef, _ = trainer._model("float32", 0)

    @jax.jit
    @jax.grad
    def gradient(params):
        found = unit(merge(graphdef, params)(made[0].block).reshape(-1, 2, TINY.width))
        s = (found[:, 0] @ found[:, 1].T) / TINY.temperature
        return -jnp.diagonal(jax.nn.log_softmax(s, axis=1)).mean()

    compiled = trainer._compile("cross_entropy", "sgd", 4, "float32", 1)
    ended, _ = compiled.train(start, made, 0.5)
    for a, b, g in zip(*map(leaves, (ended, start, gradient(start))), strict=True):
        np.testing.assert_allclose(a, b - 0.5 * g, rtol=1e-4, atol=1e-4)


def test_a_model_that_ran_away_scores_nothing(trainer):
    start = trainer.start(0)
    scores = trainer.score(start)
    assert list(scores) and set(scores) == set(trainer.score.names)
    lost = trainer.score(jax.tree.map(lambda x: x * np.nan, start))
    assert lost == dict.fromkeys(scores, 0.0)


def test_dcl_and_flatnce_coincide(trainer):
    found = trainer.dcl_difference()
    assert found["parameters"] <= 1e-6 < found["moved"]


def test_bfloat16_is_the_scores_as_well():
    x = jnp.ones((2, 4))
    assert arms.scores(x, x, jnp.float32(20), arms.BFLOAT16).dtype == jnp.bfloat16


def test_batches_hold_each_example_once_an_epoch():
    made = batches.order(0, 10, 4, 5)
    assert made.shape == (5, 4)
    for epoch in (made[:2], made[2:4]):
        assert len(set(epoch.ravel().tolist())) == 8
    assert not np.array_equal(made[:2], made[2:4])
    assert np.array_equal(made[:3], batches.order(0, 10, 4, 3))
    assert not np.array_equal(made, batches.order(1, 10, 4, 5))


def test_batches_of_all_seeds_have_one_shape(trainer):
    made = trainer._batches(4, 2)
    shapes = {batch.block.tokens.shape for steps in made for batch in steps}
    assert len(shapes) == 1
    first = made[0][0]
    example = first.ids[0, 1, 0] // 2
    place = np.flatnonzero(first.block.text[0].ravel() == 2)  # view 0 of example 1
    start, length = trainer.pairs.starts[example, 0], trainer.pairs.lengths[example, 0]
    assert np.array_equal(
        first.block.tokens[0].ravel()[place], trainer.pairs.tokens[start : start + length]
    )


def test_nothing_held_out_is_trained_on():
    pairs = [(f"anchor {n // 2}", f"positive {n}") for n in range(400)]
    pairs += [("An anchor  of another", "positive 7"), ("Hidden", "text"), ("other", "hidden")]
    train, held_out = texts.split(pairs, frozenset({"hidden"}), out_of=4)
    held = {text.lower() for pair in held_out for text in pair}
    assert len(held) == 2 * len(held_out) > 0
    assert held.isdisjoint(text.lower() for pair in train for text in pair)
    assert not {"Hidden", "hidden"} & {text for pair in train for text in pair}


def test_halves_of_sts_share_no_pair():
    first, second = texts.halves(CORPUS.sts)
    assert len(first.gold) + len(second.gold) == len(CORPUS.sts.gold)
    assert first.subsets[0].first == CORPUS.sts.subsets[0].first[::2]
    assert second.subsets[0].gold.tolist() == CORPUS.sts.subsets[0].gold[1::2].tolist()


@pytest.mark.data
def test_nli_and_sts(data_root):
    corpus = texts.load(data_root)
    assert len(corpus.pairs) > 10_000 and len(corpus.held_out) > 500
    assert len(corpus.sts.gold) == 1500
