"""Short runs on a made-up corpus, with an encoder of a few numbers."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.errors import SimjaxError
from simjax.lab.precision import arms, batches, texts
from simjax.lab.precision.settings import LOGGED, RunKey, TrainingSettings, rates, run_keys
from simjax.lab.precision.training import Trainer, check_batches, windows
from simjax.models.sentence_model import merge
from simjax.objectives.sides import unit
from tests.lab.precision.tiny_corpus import CORPUS, TINY

KEY = RunKey("corpus", "softplus", "sgd", 0.01, 4, "float32", 0)


@pytest.fixture(scope="module")
def trainer():
    return Trainer(CORPUS, TINY)


def leaves(params):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def test_keys_are_every_run_once():
    settings = TrainingSettings()
    made = list(run_keys(settings))
    assert len(set(made)) == len(made)
    per_arm = {arm: len(rates(settings, "sgd", arm)) for arm in settings.arms}
    assert len(set(per_arm.values())) == 1  # None has more to choose from.
    expected = 5 * 2 * 5 * (4 * len(settings.adamw_rates) + sum(per_arm.values()))
    easy = [key for key in made if key.block == "easy"]
    assert len(made) - len(easy) == expected
    assert len(easy) == 2 * 2 * 2 * 3 * 5 <= 150
    assert {(key.arm, key.optimizer) for key in easy} == {
        ("cross_entropy", "adamw"),
        ("softplus", "adamw"),
    }
    assert rates(settings, "sgd", "softplus") == rates(settings, "sgd", "cross_entropy")
    assert rates(settings, "adamw", "flatnce") == rates(settings, "adamw", "softplus")
    # Runs that share a compiled step stand together.
    kinds = [(key.block, key.batch, key.dtype, key.optimizer, key.arm) for key in made]
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
    assert first["diverged"] is False
    assert 0 < first["history"]["mean_weight"][0] < 1
    assert set(first["scores"]) == {
        *("ndcg@10", "spearman", "select/ndcg@10", "select/spearman"),
        *("alignment", "uniformity"),
    }


def test_the_rate_is_what_moves_it(trainer):
    start = leaves(trainer.start(0))
    still = leaves(trainer.train(dataclasses.replace(KEY, rate=0.0))[0])
    assert all(map(np.array_equal, start, still))
    moves = []
    for rate in (1e-5, 2e-5):
        ended = leaves(trainer.train(dataclasses.replace(KEY, rate=rate))[0])
        moves.append(np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(ended, start, strict=True))))
    assert moves[1] == pytest.approx(2 * moves[0], rel=0.1)


def test_sgd_is_plain_and_unclipped(trainer):
    """One update is the learning rate times the gradient of the loss as it is written."""
    start = trainer.start(0)
    made = trainer._batches("corpus", 4, 2)[0][:1]
    graphdef, _ = trainer._model("float32", 0)

    @jax.jit
    @jax.grad
    def gradient(params):
        found = unit(merge(graphdef, params)(made[0].block).reshape(-1, 2, TINY.width))
        s = (found[:, 0] @ found[:, 1].T) / TINY.temperature
        return -jnp.diagonal(jax.nn.log_softmax(s, axis=1)).mean()

    compiled = trainer._compile("corpus", "cross_entropy", "sgd", 4, "float32", 1)
    ended, _ = compiled.train(start, made, 0.5)
    for a, b, g in zip(*map(leaves, (ended, start, gradient(start))), strict=True):
        np.testing.assert_allclose(a, b - 0.5 * g, rtol=1e-4, atol=1e-4)


def test_a_model_that_ran_away_scores_nothing(trainer):
    start = trainer.start(0)
    scores = trainer.score(start)
    assert list(scores) and set(scores) == set(trainer.score.names)
    for factor in (np.nan, 0):
        assert trainer.score(jax.tree.map(lambda x, by=factor: x * by, start)) is None


def test_a_run_that_diverged_has_no_scores(trainer, monkeypatch):
    """Its gradients are not finite from the second update on, which are dropped."""
    lost = {"loss": np.array([1.0, np.nan]), "grad_norm": np.array([1.0, np.inf])}
    broken = jax.tree.map(lambda x: x * np.nan, trainer.start(0))
    monkeypatch.setattr(trainer, "train", lambda key: (broken, lost))
    found = trainer.run(KEY)
    assert found == {
        "scores": dict.fromkeys(trainer.score.names),
        "diverged": True,
        "history": {"loss": [1.0, None], "grad_norm": [1.0, None]},
        "dropped": 1,
    }
    json.dumps(found, allow_nan=False)


def test_windows_are_means_of_what_is_finite():
    assert windows(np.arange(20.0)) == [0.5 + 2 * n for n in range(10)]
    values = np.array([1.0, np.nan, 3.0, np.inf] + [5.0] * 8)
    assert windows(values)[:2] == [1.0, 3.0]
    assert windows(np.full(10, np.nan)) == [None] * 10


def test_seeds_start_from_different_weights(trainer):
    models = (leaves(trainer._model("float32", seed)[1]) for seed in (0, 1))
    # Before any warm-up; scales start at one and shifts at zero whatever the seed.
    assert any(not np.array_equal(*pair) for pair in zip(*models, strict=True))
    cold = Trainer(CORPUS, dataclasses.replace(TINY, warm_up_steps=0))
    starts = (leaves(cold.start(seed)) for seed in (0, 1))
    assert any(not np.array_equal(*pair) for pair in zip(*starts, strict=True))


def test_the_reported_half_is_not_the_half_that_chooses(trainer):
    """Only the embeddings of one half are spoilt, and only its scores change."""
    start = trainer.start(0)
    score = trainer.score
    before, embed = score(start), score._embed

    def spoilt(params):
        found = embed(params)
        first = score._queries[0::2]
        found[first] = found[first[::-1]]
        return found

    score._embed = spoilt
    try:
        after = score(start)
    finally:
        score._embed = embed
    assert after["select/ndcg@10"] != before["select/ndcg@10"]
    assert after["ndcg@10"] == before["ndcg@10"]
    assert after["alignment"] == before["alignment"]


def test_the_bfloat16_arm_is_in_bfloat16(trainer):
    """Scores, loss and encoder, as the step traces them."""
    start, (made, *_) = trainer.start(0), trainer._batches("corpus", 4, 2)[0]
    width = TINY.intermediate
    tokens = made.block.tokens.size
    for dtype, narrow in (("float32", False), ("bfloat16", True)):
        compiled = trainer._compile("corpus", "softplus", "sgd", 4, dtype, 1)
        state = compiled.start(start, np.float32(0.1))
        lines = str(jax.make_jaxpr(compiled.step)(state, made)).splitlines()
        scores = [line for line in lines if ":bf16[4,4]" in line and "dot_general" in line]
        losses = [line for line in lines if ":bf16[4]" in line and "log1p" in line]
        encoder = [line for line in lines if f":bf16[{tokens},{width}]" in line]
        assert [bool(found) for found in (scores, losses, encoder)] == [narrow] * 3, dtype


def test_easy_pairs_are_a_text_and_most_of_it(trainer):
    pairs = texts.easy((("a b c", "x"), ("a b c", "y"), ("one", "z")))
    assert pairs == (("a b c", "a b"),)
    lengths = trainer.pairs["easy"].lengths
    assert (lengths[:, 1] < lengths[:, 0]).all()
    assert len(trainer._batches("easy", 4, 2)[0]) == 2


def test_a_batch_must_be_filled():
    check_batches(CORPUS, TINY)
    with pytest.raises(SimjaxError, match="--batches 64: the corpus has 40 pairs"):
        check_batches(CORPUS, dataclasses.replace(TINY, batches=(64,)))


def test_dcl_and_flatnce_coincide(trainer):
    found = trainer.dcl_difference(4, 1e-3)
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
    made = trainer._batches("corpus", 4, 2)
    shapes = {batch.block.tokens.shape for steps in made for batch in steps}
    assert len(shapes) == 1
    first = made[0][0]
    example = first.ids[0, 1, 0] // 2
    place = np.flatnonzero(first.block.text[0].ravel() == 2)  # view 0 of example 1
    pairs = trainer.pairs["corpus"]
    start, length = pairs.starts[example, 0], pairs.lengths[example, 0]
    assert np.array_equal(
        first.block.tokens[0].ravel()[place], pairs.tokens[start : start + length]
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
