from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simjax.data.order import WINDOW, BatchOrder, apportion
from simjax.data.shuffle import permute

SIZES = (40, 100, 17)
STARTS = (0, 40, 140)


def sources_of(examples):
    return np.searchsorted([40, 140], examples, side="right")


# Shares


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(0, 400))
def test_turns_follow_websters_ranks(weights, total):
    shares = np.array(weights) / sum(weights)
    # Independently: every turn's rank as a fraction, the smallest ones first.
    ranks = sorted(
        (Fraction(2 * turn + 1, 2 * weight), owner)
        for owner, weight in enumerate(weights)
        for turn in range(total)
    )
    counts = [[owner for _, owner in ranks[:total]].count(i) for i in range(len(weights))]
    # Ties of equal ranks may fall either way once they are rounded.
    found = apportion(total, shares)
    assert found.sum() == total
    if total == 0 or total == len(ranks) or ranks[total - 1][0] != ranks[total][0]:
        assert found.tolist() == counts


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6), st.integers(0, 10**9))
def test_counts_never_fall_and_stay_near_their_quotas(weights, total):
    shares = np.array(weights) / np.sum(weights)
    before, after = (apportion(total + i, shares) for i in (0, 1))
    assert (after - before >= 0).all() and (after - before).sum() == 1
    assert np.abs(before - total * shares).max() <= len(weights)


# One source


def test_one_source_goes_by_the_seed_and_the_pass():
    order = BatchOrder((100,), 24, 3)
    assert order.steps_per_epoch == 4
    for n in (0, 3, 4, 401):
        epoch, step = divmod(n, 4)
        places = np.arange(24 * step, 24 * step + 24)
        assert (order.examples(n) == permute(places, 100, (3, epoch))).all()


# One batch from one source


def test_batches_are_of_one_source_and_passes_are_whole():
    order = BatchOrder(SIZES, 8, seed=1)
    assert order.steps_per_epoch == 5 + 12 + 2
    passes = {source: [] for source in range(3)}
    for n in range(19 * 6):
        examples = order.examples(n)
        (source,) = set(sources_of(examples))
        assert source == order.source_of(n)
        assert len(set(examples)) == 8
        passes[source].append(examples)
    counts = [len(found) for found in passes.values()]
    assert np.abs(np.array(counts) - [30, 72, 12]).max() <= 1
    for source, found in passes.items():
        steps = SIZES[source] // 8
        for begin in range(0, len(found) - steps, steps):
            once = np.concatenate(found[begin : begin + steps])
            assert len(set(once)) == len(once)
        first, second = (np.concatenate(found[i * steps : (i + 1) * steps]) for i in (0, 1))
        assert (first != second).any()


def test_weights_are_kept_in_every_window():
    order = BatchOrder((50, 50, 50), 5, seed=0, weights=[5, 2, 1])
    turns = [order.source_of(n) for n in range(4 * WINDOW)]
    for begin in range(0, len(turns), WINDOW):
        counts = np.bincount(turns[begin : begin + WINDOW])
        assert counts.tolist() == [40, 16, 8]
    # Not one after another, and not the same in every window.
    assert turns[:WINDOW] != sorted(turns[:WINDOW])
    assert turns[:WINDOW] != turns[WINDOW : 2 * WINDOW]


def test_sources_of_one_size_are_not_shuffled_alike():
    order = BatchOrder((16, 16), 16, seed=0)
    one, other = (
        next(order.examples(n) for n in range(9) if order.source_of(n) == source)
        for source in (0, 1)
    )
    assert (one != other - 16).any()


# Batches of all sources


@pytest.mark.parametrize("weights", [None, [1, 1, 2]])
def test_mixed_batches_have_their_shares(weights):
    order = BatchOrder(SIZES, 16, seed=2, weights=weights, mixing="mixed")
    assert order.steps_per_epoch == 157 // 16
    shares = np.array(weights or SIZES) / sum(weights or SIZES)
    found = {source: [] for source in range(3)}
    total = np.zeros(3)
    for n in range(60):
        examples = order.examples(n)
        assert len(examples) == 16
        counts = np.bincount(sources_of(examples), minlength=3)
        assert np.abs(counts - 16 * shares).max() < 2
        total += counts
        assert np.abs(total - 16 * (n + 1) * shares).max() <= 1
        for example, source in zip(examples, sources_of(examples), strict=True):
            found[source].append(example)
    # Each source is gone through once before any example of it comes again.
    for source, size in enumerate(SIZES):
        assert len(found[source]) >= size
        for begin in range(0, len(found[source]) - size, size):
            once = found[source][begin : begin + size]
            assert sorted(once) == list(range(STARTS[source], STARTS[source] + size))


# The number of the batch alone


@pytest.mark.parametrize("mixing", ["one_source", "mixed"])
@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("sizes", [(157,), SIZES])
def test_the_seed_and_the_number_alone_decide(mixing, distinct, sizes):
    texts = np.random.default_rng(0).integers(0, 200, (157, 2)) if distinct else None

    def order(seed=5):
        return BatchOrder(sizes, 8, seed, mixing=mixing, texts=texts)

    forward = order()
    expected = [forward.examples(n) for n in range(70)]
    backward = order()
    for n in reversed(range(70)):
        assert (backward.examples(n) == expected[n]).all()
    assert (order().examples(10**6) == forward.examples(10**6)).all()
    assert any((order(6).examples(n) != expected[n]).any() for n in range(3))
    assert any((expected[n] != expected[n + forward.steps_per_epoch]).any() for n in range(3))


@pytest.mark.parametrize("mixing", ["one_source", "mixed"])
def test_distinct_texts_go_with_mixtures(mixing):
    rng = np.random.default_rng(1)
    # Anchors come two or three times, in several sources.
    texts = np.stack([rng.permutation(np.arange(157) % 60), 60 + np.arange(157)], axis=1)
    order = BatchOrder(SIZES, 16, seed=0, mixing=mixing, texts=texts)
    plain = BatchOrder(SIZES, 16, seed=0, mixing=mixing)
    repeated = 0
    for n in range(3 * order.steps_per_epoch):
        examples = order.examples(n)
        assert len(set(texts[examples, 0])) == 16
        repeated += len(set(texts[plain.examples(n), 0])) < 16
        assert order.source_of(n) == plain.source_of(n)
        if mixing == "one_source":
            assert set(sources_of(examples)) == {order.source_of(n)}
    assert repeated > 5
