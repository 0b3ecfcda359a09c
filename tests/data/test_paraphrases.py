"""Two texts in one row, in both orders."""

import dataclasses

import jax
import numpy as np
import pytest

from simjax.data.config import DataConfig
from simjax.data.corpus import prepare
from simjax.data.paraphrases import check_tokenizer, joined_lengths
from simjax.data.pipeline import BatchSource
from simjax.data.sources import Source
from simjax.data.tokenizer import train_wordpiece
from simjax.errors import UsageError
from simjax.types import NO_TEXT
from tests.data.test_pipeline import make_store
from tests.tiny_models import bert_tokenizer, roberta_tokenizer

CONFIG = DataConfig(
    batch_size=24, block_size=4, row_length=64, max_length=41, views="paraphrases", seed=3
)


@pytest.fixture(scope="module")
def store():
    return make_store(positives=2)


def rows_of(block):
    """Of each text its tokens, segments and places, as they stand in its row."""
    found = []
    for text in range(block.first.shape[0]):
        where = np.nonzero(block.text.reshape(-1) == text)[0]
        assert where[0] == block.first[text]
        assert (np.diff(where) == 1).all()
        flat = (array.reshape(-1)[where] for array in (block.tokens, block.segment))
        assert block.positions.reshape(-1)[where].tolist() == list(range(len(where)))
        found.append(tuple(array.tolist() for array in flat))
    return found


def test_both_orders_of_anchor_and_first_positive_stand_in_rows(store):
    source = BatchSource(store, CONFIG)
    assert (source.num_views, source.num_positives) == (2, 1)
    packed = source[5]
    found = []
    for place in range(6):
        rows = rows_of(jax.tree.map(lambda array, place=place: array[place], packed.batch.block))
        for example, ids in enumerate(packed.batch.ids[place].tolist()):
            found.append((ids, rows[2 * example], rows[2 * example + 1]))
    expected = []
    for example in source.examples(5):
        one, two = (
            store.tokens[store.offsets[text] : store.offsets[text + 1]].tolist()
            for text in store.examples[example, :2]
        )
        views = [
            (a + b[1:], [0] * len(a) + [1] * (len(b) - 1)) for a, b in ((one, two), (two, one))
        ]
        expected.append((store.text_ids[store.examples[example, :2]].tolist(), *views))
    assert sorted(found, key=repr) == sorted(expected, key=repr)
    block = packed.batch.block
    assert (block.segment[block.text == NO_TEXT] == 0).all()
    assert block.segment.dtype == block.positions.dtype == block.text.dtype == np.int32
    assert packed.tokens == int((block.text != NO_TEXT).sum())


@pytest.mark.parametrize("views", ["paraphrases", "reconstruction"])
def test_processes_share_the_rows_out(store, views):
    config = dataclasses.replace(CONFIG, views=views, max_length=32)
    whole = BatchSource(store, config)[2].batch
    parts = [BatchSource(store, config, process_index=i, process_count=2)[2].batch for i in (0, 1)]
    assert whole.block.goes_on is None  # of a vocabulary whose tokens tell
    joined = jax.tree.map(lambda *arrays: np.concatenate(arrays), *(part.block for part in parts))
    jax.tree.map(np.testing.assert_array_equal, joined, whole.block)
    assert joined.segment is not None


def test_a_text_is_cut_at_half_a_row_whatever_its_partner(tmp_path):
    lines = [f"a{i}\t{' '.join('bcdefghij')}{i}\n" for i in range(10)]
    (tmp_path / "a.tsv").write_text("anchor\tpositive\n" + "".join(lines))
    config = DataConfig(
        root=str(tmp_path),
        source=Source(path="a.tsv"),
        views="paraphrases",
        batch_size=2,
        max_length=12,
        row_length=16,
        cache=str(tmp_path / "cache"),
    )
    tokenizer = train_wordpiece(lines, 60)
    source = BatchSource(prepare(config, tokenizer), config)
    assert config.text_length == 6
    block = source[0].batch.block
    for tokens, segment in rows_of(jax.tree.map(lambda array: array[0], block)):
        assert len(tokens) <= 12
        words = tokenizer.convert_ids_to_tokens(tokens)
        assert words[0] == "[CLS]" and words.count("[CLS]") == 1
        # Both halves end as texts do.
        ends = [n for n, word in enumerate(words) if word == "[SEP]"]
        assert ends == [segment.index(1) - 1, len(words) - 1]
        assert max(ends[0] + 1, len(words) - ends[0]) <= 6


def test_lengths_of_views():
    lengths = joined_lengths(np.asarray([[5, 7], [3, 0]]))
    assert lengths.tolist() == [[11, 11], [0, 0]]


def test_batches_without_duplicates_look_at_both_texts_alone(store):
    config = dataclasses.replace(CONFIG, batch_size=8, no_duplicates=True)
    source = BatchSource(store, config)
    for n in range(source.steps_per_epoch):
        ids = source[n].batch.ids
        distinct = [set(example) for example in ids.reshape(-1, 2).tolist()]
        assert len(set().union(*distinct)) == sum(map(len, distinct))


def test_a_tokenizer_that_joins_texts_otherwise_is_refused():
    check_tokenizer(bert_tokenizer())
    check_tokenizer(train_wordpiece(["a b c"], 60))
    with pytest.raises(UsageError, match=r"does not join two texts as \[CLS\] a \[SEP\] b \[SEP\]"):
        check_tokenizer(roberta_tokenizer())


def test_a_row_too_short_for_two_texts_is_refused():
    with pytest.raises(UsageError, match=r"max_length is 4 and data\.views is paraphrases"):
        DataConfig(views="paraphrases", max_length=4)
