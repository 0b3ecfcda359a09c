"""Views of texts, held to plain statements of what each kind is."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from simjax.data.augment import Crop, Delete, Mask, Repeat, Shuffle, Synonyms
from simjax.data.draws import Draws
from simjax.data.synonyms import SynonymTable, word_hashes
from simjax.data.views import Augmenter
from simjax.data.words import Words
from simjax.errors import UsageError

PAD, UNK, CLS, SEP, MASK = range(5)
VOCABULARY = 40
FIRST_PIECE = 25
"""Tokens 5 to 24 begin a word, those from here on go on with one; so does 1, for unknown words."""
MAX_LENGTH = 24
LIKELY = 1e-4
"""Tests of distributions have fixed draws; a correct one is refused with these odds at most."""

numbers = np.arange(VOCABULARY)
SPECIAL = np.isin(numbers, (PAD, CLS, SEP, MASK))
WORDS = Words(goes_on=numbers >= FIRST_PIECE, special=SPECIAL, mask=MASK, unknown=UNK)


def table(**entries: list[tuple[int, ...]]) -> SynonymTable:
    """Synonyms of words that are given as `w5_25` for the tokens 5 and 25."""
    keys = [tuple(map(int, name[1:].split("_"))) for name in entries]
    lengths = np.asarray([len(key) for key in keys])
    hashes = word_hashes(np.concatenate(keys), np.cumsum(lengths) - lengths, lengths)
    order = np.argsort(hashes)
    found = [ids for ids_of_key in entries.values() for ids in ids_of_key]
    counts = np.asarray([len(ids) for ids in entries.values()])
    sizes = np.asarray([len(ids) for ids in found])
    return SynonymTable(
        hashes=hashes[order],
        first=(np.cumsum(counts) - counts)[order],
        count=counts[order],
        start=np.cumsum(sizes) - sizes,
        length=sizes,
        tokens=np.concatenate(found).astype(np.int32),
        digest="",
    )


TABLE = table(w5=[(6,), (7, 25)], w8_26=[(9, 27, 28)], w10=[(11, 12)])
SYNONYMS = {(5,): [(6,), (7, 25)], (8, 26): [(9, 27, 28)], (10,): [(11, 12)]}


def augmenter(*changes, seed=0, words=WORDS, max_length=MAX_LENGTH):
    tables = tuple(TABLE if isinstance(change, Synonyms) else None for change in changes)
    return Augmenter(changes, words, tables, max_length, seed)


def views_of(maker, examples, *, n=0, numbers=None, num_positives=None):
    """Views of examples, each a list of texts (None where there is none), as lists again."""
    flat = [[] if text is None else text for example in examples for text in example]
    shape = (len(examples), len(examples[0]))
    each = np.asarray([len(text) for text in flat])
    tokens = np.concatenate([np.asarray(text, np.uint16) for text in flat])
    numbers = np.arange(len(examples)) if numbers is None else np.asarray(numbers)
    positives = shape[1] - 1 if num_positives is None else num_positives
    starts = (np.cumsum(each) - each).reshape(shape)
    made, starts, lengths = maker(n, numbers, tokens, starts, each.reshape(shape), positives)
    assert lengths.shape == shape and lengths.sum() == len(made) and made.dtype == np.int32
    return [
        [made[start : start + length].tolist() for start, length in zip(*pair, strict=True)]
        for pair in zip(starts, lengths, strict=True)
    ]


def parts(text, *, tokens_alone=False):
    """Plain: words and special tokens of a text, each as a tuple."""
    found = []
    for place, token in enumerate(text):
        follows = place > 0 and not SPECIAL[text[place - 1]]
        if token >= FIRST_PIECE and follows and not tokens_alone:
            found[-1] += (token,)
        else:
            found.append((token,))
    return found


def words(text, **how):
    return [part for part in parts(text, **how) if not SPECIAL[part[0]]]


inner = st.lists(st.sampled_from([UNK, MASK, *range(5, 12), *range(24, 30)]), max_size=20)
texts = inner.map(lambda tokens: [CLS, *tokens, SEP])
examples = st.lists(st.tuples(texts, texts | st.none(), texts), min_size=1, max_size=5)
rates = st.floats(0.01, 0.99)
units = st.sampled_from(["token", "word"])
which = st.sampled_from(["positives", "all", "anchor"])
changes = st.one_of(
    st.builds(Crop, rate=rates, views=which),
    st.builds(Delete, rate=rates, words=st.none() | st.integers(1, 5), views=which),
    st.builds(Repeat, rate=rates, unit=units, views=which),
    st.builds(Synonyms, path=st.just("x"), rate=rates, words=st.none() | st.just(2), views=which),
    st.builds(Mask, rate=rates, unit=units, views=which),
    st.builds(Shuffle, unit=units, views=which),
)


def roundings(exact):
    return {math.floor(exact), math.ceil(exact)}


def numbers_of_changes(before, after, alternatives, *, tokens_alone=False):
    """How many words may have been changed to make one text of the other; empty if none could.

    Args:
        before: The text.
        after: The view.
        alternatives: What a word may become.
        tokens_alone: Whether each token is a word.
    """
    reached = {(0, 0)}
    for part in parts(before, tokens_alone=tokens_alone):
        ways = [(part, 0)]
        if not SPECIAL[part[0]]:
            ways += [(other, 1) for other in alternatives(part)]
        reached = {
            (place + len(tokens), count + more)
            for place, count in reached
            for tokens, more in ways
            if tuple(after[place : place + len(tokens)]) == tokens
        }
    return {count for place, count in reached if place == len(after)}


def allowed(change, before, after):
    """Whether a view is one that the definition of its kind allows."""
    alone = getattr(change, "unit", "word") == "token"
    old, new = (words(text, tokens_alone=alone) for text in (before, after))
    rate, room = getattr(change, "rate", 0), MAX_LENGTH - len(before)
    ends = [part for part in parts(before) if SPECIAL[part[0]]]
    same_ends = [part for part in parts(after) if SPECIAL[part[0]]] == ends
    most = max(len(old) - 1, 0)
    match change:
        case Crop():
            size = {min(count, most) for count in roundings(rate * len(old))}
            spans = [old[i : i + len(new)] for i in range(len(old) - len(new) + 1)]
            return same_ends and len(old) - len(new) in size and new in spans
        case Delete():
            wanted = roundings(rate * len(old)) if change.words is None else {change.words}
            gone = numbers_of_changes(before, after, lambda word: [()])
            return len(old) - len(new) in gone & {min(count, most) for count in wanted}
        case Repeat():
            top = min(max(2, math.floor(rate * len(old))), len(old))
            found = numbers_of_changes(before, after, lambda word: [2 * word], tokens_alone=alone)
            return bool(found & set(range(top + 1)))
        case Synonyms():
            known = sum(word in SYNONYMS for word in old)
            wanted = roundings(rate * known) if change.words is None else {change.words}
            wanted = {min(count, known) for count in wanted}
            if room < 2 * known:  # maybe too little for all
                wanted = set(range(max(wanted) + 1))
            found = numbers_of_changes(before, after, lambda word: SYNONYMS.get(word, []))
            return bool(found & wanted)
        case Mask():
            pairs = list(zip(before, after, strict=True))
            changed = [place for place, (x, y) in enumerate(pairs) if x != y]
            if any(SPECIAL[before[i]] or (SPECIAL[after[i]] and after[i] != MASK) for i in changed):
                return False
            lengths = [len(part) for part in parts(before, tokens_alone=alone)]
            owner = np.repeat(np.arange(len(lengths)), lengths)
            return len({*owner[changed]}) <= max(roundings(rate * len(old)))
        case Shuffle():
            fixed, placed = (
                [part[0] if SPECIAL[part[0]] else None for part in parts(text, tokens_alone=alone)]
                for text in (before, after)
            )
            if any(word[0] >= FIRST_PIECE for word in old) and not alone:
                # Such a word is taken for a part of the one that it now stands behind.
                return sorted(before) == sorted(after) and same_ends
            return sorted(old) == sorted(new) and fixed == placed
    raise AssertionError(change)


@settings(deadline=None)
@given(st.data())
def test_views_are_what_their_kind_allows(data):
    change = data.draw(changes)
    given_texts = data.draw(examples)
    seed, n = data.draw(st.integers(0, 99)), data.draw(st.integers(0, 99))
    made = views_of(augmenter(change, seed=seed), given_texts, n=n, num_positives=1)
    changed = {"positives": (1,), "all": (0, 1, 2), "anchor": (0,)}[change.views]
    for before_views, after_views in zip(given_texts, made, strict=True):
        for view, (before, after) in enumerate(zip(before_views, after_views, strict=True)):
            if before is None or view not in changed:
                assert after == (before or [])
                continue
            assert len(after) <= MAX_LENGTH
            if not isinstance(change, Mask):  # a mask is special, and stands for what is not
                assert bool(words(before)) == bool(words(after))
            assert allowed(change, before, after), (change, before, after)


def test_the_check_of_views_can_fail():
    """Each refuses one text that no view of its kind is."""
    text = [CLS, 5, 6, 26, 7, 8, 9, 10, SEP]
    wrong = {
        Crop(rate=0.34): [CLS, 5, 7, 8, 9, SEP],
        Delete(rate=0.34): [CLS, 5, 26, 7, 9, 10, SEP],
        Repeat(rate=0.32): [CLS, 5, 6, 26, 7, 8, 8, 8, 9, 10, SEP],
        Synonyms(path="x", words=1): [CLS, 6, 6, 26, 7, 8, 9, 11, 12, SEP],
        Mask(rate=0.1): [CLS, MASK, MASK, 26, 7, 8, 9, 10, SEP],
        Shuffle(unit="word"): [CLS, 26, 6, 5, 7, 8, 9, 10, SEP],
    }
    for change, view in wrong.items():
        assert not allowed(change, text, view), change


@settings(deadline=None)
@given(examples, st.lists(changes, min_size=1, max_size=3), st.integers(0, 2**32))
def test_a_view_depends_on_nothing_but_its_seed_batch_example_and_place(found, some, seed):
    maker = augmenter(*some, seed=seed)
    own = np.arange(len(found)) * 1000
    together = views_of(maker, found, n=7, numbers=own)
    for number, example in zip(own, found, strict=True):
        (alone,) = views_of(maker, [example], n=7, numbers=[number])
        assert alone == together[number // 1000]
    backwards = views_of(maker, found[::-1], n=7, numbers=own[::-1])
    assert backwards[::-1] == together


def test_changes_follow_each_other():
    text = [CLS, *range(5, 15), SEP]
    first, then = Delete(rate=0.3), Shuffle()
    (((_, both)),) = views_of(augmenter(first, then), [(text, text)])
    (((_, deleted)),) = views_of(augmenter(first), [(text, text)])
    assert sorted(both) == sorted(deleted) and both != deleted


def splitmix(state, number):
    """Draw `number` of the generator as its paper has it, in Python's integers."""
    mask = 2**64 - 1
    z = (state + (number + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
    return z ^ z >> 31


def test_draws_are_those_of_splitmix64():
    draws = Draws.of((3, 9), np.asarray([70_000, 2]), 2).at(1)
    base = int(np.random.SeedSequence((3, 9, 0x5649455753)).generate_state(1, np.uint64)[0])
    for text, (example, view) in enumerate([(70_000, 0), (70_000, 1), (2, 0), (2, 1)]):
        key = splitmix(splitmix(splitmix(base, example), view), 1)
        for number in (0, 1, 40):
            found = draws.bits(np.asarray([text]), np.asarray([number]))[0]
            assert int(found) == splitmix(key, number)
        assert draws.of_texts()[text] == (splitmix(key, 0) >> 11) / 2**53


def test_batches_views_and_seeds_differ():
    text = [CLS, *range(5, 21), SEP]
    example = (text, text, text)
    change = Shuffle(views="all")
    found = [
        tuple(view)
        for seed in range(2)
        for n in range(2)
        for views in views_of(augmenter(change, seed=seed), [example] * 2, n=n)
        for view in views
    ]
    assert len(set(found)) == len(found) == 24


# How often


def many(change, text, count=4000, view=1):
    """One view of each of many examples with the same text."""
    made = views_of(augmenter(change), [(text, text)] * count)
    return [views[view] for views in made]


def evenly(counts):
    return stats.chisquare(counts).pvalue > LIKELY


TEN = [CLS, *range(5, 15), SEP]


@pytest.mark.parametrize("rate", [0.05, 0.25, 0.3, 0.85])
@pytest.mark.parametrize("kind", [Crop, Delete])
def test_the_share_that_goes_is_met_in_the_mean(kind, rate):
    gone = np.asarray([len(TEN) - len(view) for view in many(kind(rate=rate), TEN)])
    assert set(gone) <= roundings(10 * rate)
    fraction = 10 * rate % 1
    error = 4 * np.sqrt(fraction * (1 - fraction) / len(gone)) + 1e-9
    assert abs(gone.mean() - 10 * rate) <= error


def test_crops_begin_anywhere_and_words_go_wherever_they_stand():
    assert evenly([*Counter(view[1] for view in many(Crop(rate=0.3), TEN)).values()])
    assert len({view[1] for view in many(Crop(rate=0.3), TEN)}) == 4
    pairs = Counter(
        frozenset(TEN) - frozenset(view) for view in many(Delete(words=2), TEN, count=9000)
    )
    assert len(pairs) == 45 and evenly([*pairs.values()])


def test_repeats_are_as_many_as_esimcse_draws():
    repeated = many(Repeat(rate=0.32), TEN)
    counts = Counter(len(view) - len(TEN) for view in repeated)
    assert sorted(counts) == [0, 1, 2, 3] and evenly([*counts.values()])
    which = Counter(token for view in repeated for token, n in Counter(view).items() if n == 2)
    assert sorted(which) == list(range(5, 15)) and evenly([*which.values()])
    # Of few words up to two.
    short = Counter(len(view) for view in many(Repeat(rate=0.32), [CLS, 5, 6, 7, SEP]))
    assert sorted(short) == [5, 6, 7] and evenly([*short.values()])


def test_a_text_that_is_full_repeats_nothing():
    full = [CLS, *[5] * (MAX_LENGTH - 2), SEP]
    assert {tuple(view) for view in many(Repeat(), full, count=50)} == {tuple(full)}
    nearly = [CLS, *range(5, 25), UNK, SEP]
    assert {len(view) for view in many(Repeat(), nearly)} == {MAX_LENGTH - 1, MAX_LENGTH}


def test_all_orders_are_as_likely():
    orders = Counter(tuple(view[1:-1]) for view in many(Shuffle(), [CLS, 5, 6, 26, SEP]))
    assert len(orders) == 6 and evenly([*orders.values()])
    whole = Counter(tuple(view[1:-1]) for view in many(Shuffle(unit="word"), [CLS, 5, 6, 26, SEP]))
    assert set(whole) == {(5, 6, 26), (6, 26, 5)} and evenly([*whole.values()])


def test_masked_tokens_have_berts_shares():
    text = [CLS, *[5] * 20, SEP]
    tokens = np.asarray(many(Mask(rate=0.5, random=0.2, kept=0.3), text))[:, 1:-1].ravel()
    chosen = len(tokens) / 2
    ordinary = np.flatnonzero(~SPECIAL)
    seen = [np.count_nonzero(tokens == token) for token in ordinary if token != 5]
    assert evenly(seen) and sum(seen) == np.count_nonzero(~np.isin(tokens, (5, MASK)))
    masked = stats.binomtest(np.count_nonzero(tokens == MASK), int(chosen), 0.5)
    random = stats.binomtest(sum(seen), int(chosen), 0.2 * (len(ordinary) - 1) / len(ordinary))
    assert masked.pvalue > LIKELY and random.pvalue > LIKELY


def test_whole_words_are_masked():
    text = [CLS, 5, 25, 26, 6, 27, SEP]
    found = {tuple(view) for view in many(Mask(rate=0.5, random=0, kept=0, unit="word"), text)}
    assert found == {(CLS, MASK, MASK, MASK, 6, 27, SEP), (CLS, 5, 25, 26, MASK, MASK, SEP)}


def test_synonyms_are_as_likely_as_each_other():
    found = Counter(tuple(v) for v in many(Synonyms(path="x", words=1), [CLS, 5, 24, 8, 26, SEP]))
    expected = {
        (CLS, 6, 24, 8, 26, SEP): 0.25,
        (CLS, 7, 25, 24, 8, 26, SEP): 0.25,
        (CLS, 5, 24, 9, 27, 28, SEP): 0.5,
    }
    assert set(found) == set(expected)
    counts = [found[view] for view in expected]
    assert stats.chisquare(counts, [4000 * p for p in expected.values()]).pvalue > LIKELY


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Crop, {"rate": 0.0}, "rate of a crop view is 0.0"),
        (Delete, {"rate": 1.0}, "rate of a delete view is 1.0"),
        (Delete, {"words": 0}, "words of a delete view is 0"),
        (Mask, {"random": 0.6, "kept": 0.5}, "random of a mask view is 0.6"),
    ],
)
def test_rates_outside_their_range_are_refused(kind, options, message):
    with pytest.raises(UsageError, match=message):
        kind(**options)
