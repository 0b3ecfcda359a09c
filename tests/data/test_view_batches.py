"""Batches whose views are changed: the same whoever makes them, and packed by what they hold."""

import dataclasses

import jax
import numpy as np
import pytest

from simjax.data.augment import Crop, Delete, FeatureCutoff, Mask, Repeat, Shuffle
from simjax.data.config import DataConfig
from simjax.data.pipeline import BatchSource, batches
from simjax.data.views import Augmenter
from simjax.data.words import Words
from simjax.types import NO_TEXT
from tests.data.test_pipeline import contents, equal, expected_contents, make_store

CONFIG = DataConfig(batch_size=24, block_size=4, row_length=32, max_length=20, seed=3)
ORDINARY = np.zeros(60_000, bool)
WORDS = Words(goes_on=ORDINARY, special=ORDINARY, mask=3, unknown=1)
CHANGES = (Delete(rate=0.3, views="all"), Repeat(rate=0.5), Mask(rate=0.2, views="anchor"))


@pytest.fixture(scope="module")
def store():
    return make_store()


def made(store, changes=CHANGES, *, seed=3, process_index=0, process_count=1, **options):
    config = dataclasses.replace(CONFIG, seed=seed, augment=changes, **options)
    changes = tuple(change for change in changes if not isinstance(change, FeatureCutoff))
    augmenter = Augmenter(changes, WORDS, (None,) * len(changes), config.max_length, seed)
    return BatchSource(
        store,
        config,
        augmenter=augmenter if changes else None,
        process_index=process_index,
        process_count=process_count,
    )


@pytest.mark.parametrize("masks", ["own", "shared"])
@pytest.mark.parametrize("process_count", [2, 3])
def test_the_batch_does_not_depend_on_the_processes(store, masks, process_count):
    whole = made(store, dropout_masks=masks)
    shares = [
        made(store, dropout_masks=masks, process_index=index, process_count=process_count)
        for index in range(process_count)
    ]
    for n in (0, 9):
        packed, parts = whole[n], [share[n] for share in shares]
        assert {part.tokens for part in parts} == {packed.tokens}
        assert {part.fill for part in parts} == {packed.fill}
        blocks = (jax.tree.leaves(part.batch.block) for part in parts)
        joined = [np.concatenate(arrays) for arrays in zip(*blocks, strict=True)]
        assert all(map(equal, joined, jax.tree.leaves(packed.batch.block)))


def test_a_view_does_not_depend_on_blocks_and_rows(store):
    one, other = made(store), made(store, block_size=8, row_length=50)
    assert contents(one[5].batch, 3) == contents(other[5].batch, 3)
    assert contents(one[5].batch, 3) != contents(made(store, seed=4)[5].batch, 3)


def test_a_batch_holds_the_changed_texts(store):
    for n in (0, 5, 123):
        packed = made(store)[n]
        assert packed.tokens == int((packed.batch.block.text != NO_TEXT).sum())
        original = expected_contents(store, made(store).examples(n))
        found = {ids: texts for _, ids, texts in contents(packed.batch, 3)}
        changed = 0
        for _, ids, texts in original:
            for old, new in zip(texts, found[ids], strict=True):
                assert (old is None) == (new is None)
                assert old is None or 1 <= len(new) <= 20
                changed += old != new
        assert changed > 24


def test_views_are_new_in_every_epoch(store):
    source = made(store, (Shuffle(views="all"),))
    views = {}
    for n in range(2 * source.steps_per_epoch):
        for _, ids, texts in contents(source[n].batch, 3):
            views.setdefault(ids, []).append(texts)
    twice = [texts for texts in views.values() if len(texts) == 2]
    assert len(twice) > 50
    assert all(sorted(a[0]) == sorted(b[0]) for a, b in twice)
    assert np.mean([a[0] != b[0] for a, b in twice]) > 0.8


def test_resuming_goes_on_with_the_same_views(store):
    iterator = batches(made(store), prefetch=2)
    for _ in range(3):
        next(iterator)
    state, expected = iterator.get_state(), next(iterator)
    iterator.close()
    resumed = batches(made(store), prefetch=0)
    resumed.set_state(state)
    assert equal(next(resumed), expected)


@pytest.mark.parametrize("masks", ["own", "shared"])
def test_no_batch_exceeds_the_ladder(store, masks):
    source = made(store, (Repeat(rate=0.9, views="all"),), dropout_masks=masks)
    assert all(source[n].batch.block.tokens.shape[1] in source.ladder for n in range(30))
    assert source.ladder[-1] <= 12
    assert made(store, (Crop(),)).ladder[-1] == BatchSource(store, CONFIG).ladder[-1]


@pytest.mark.parametrize("views", ["columns", "dropout"])
def test_views_that_share_masks_stand_at_the_same_places(store, views):
    source = made(store, (Delete(rate=0.5),), dropout_masks="shared", views=views, num_views=3)
    assert all(rows % 3 == 0 for rows in source.ladder)
    for n in (0, 7):
        block = source[n].batch.block
        rows, length = block.tokens.shape[1:]
        row, column = np.divmod(block.first.reshape(6, 4, 3), length)
        real = source[n].batch.ids != NO_TEXT
        same = np.where(real, row % (rows // 3), row[..., :1] % (rows // 3))
        assert (same == same[..., :1]).all()
        assert (np.where(real, column, column[..., :1]) == column[..., :1]).all()
        assert (row[real] // (rows // 3) == np.nonzero(real)[2]).all()
    sorted_contents = contents(source[0].batch, 3)
    assert sorted_contents == contents(
        made(store, (Delete(rate=0.5),), views=views, num_views=3)[0].batch, 3
    )


def test_cutoffs_leave_the_words_alone(store):
    assert equal(made(store, (FeatureCutoff(),))[3], BatchSource(store, CONFIG)[3])
