"""A text twice in one row, whole both times."""

import dataclasses

import jax
import numpy as np
import pytest

from simjax.data.config import DataConfig
from simjax.data.paraphrases import check_ends, check_tokenizer, pair_lengths
from simjax.data.pipeline import BatchSource
from simjax.data.tokenizer import train_wordpiece
from simjax.errors import UsageError
from simjax.types import NO_TEXT
from tests.data.test_pipeline import make_store
from tests.tiny_models import bert_tokenizer, roberta_tokenizer

CONFIG = DataConfig(
    batch_size=24, block_size=4, row_length=64, max_length=32, views="reconstruction", seed=3
)


@pytest.fixture(scope="module")
def store():
    return make_store(positives=2)


def test_every_text_stands_twice_in_its_row(store):
    source = BatchSource(store, CONFIG)
    assert (source.num_views, source.num_positives) == (1, 0)
    packed = source[5]
    found = []
    for place in range(6):
        block = jax.tree.map(lambda array, place=place: array[place], packed.batch.block)
        for text in range(block.first.shape[0]):
            where = np.nonzero(block.text.reshape(-1) == text)[0]
            assert where[0] == block.first[text] and (np.diff(where) == 1).all()
            tokens, positions, segment = (
                array.reshape(-1)[where] for array in (block.tokens, block.positions, block.segment)
            )
            half = len(where) // 2
            # Places count from 0 again: those of the copy say nothing of the first one's length.
            assert positions.tolist() == [*range(half)] * 2
            assert segment.tolist() == [0] * half + [1] * half
            assert tokens[:half].tolist() == tokens[half:].tolist()
            found.append((int(packed.batch.ids[place, text, 0]), tokens[:half].tolist()))
        assert (block.segment[block.text == NO_TEXT] == 0).all()
    expected = []
    for text in store.examples[source.examples(5), 0]:
        tokens = store.tokens[store.offsets[text] : store.offsets[text + 1]].tolist()
        expected.append((int(store.text_ids[text]), tokens))
    assert sorted(found) == sorted(expected)
    assert packed.tokens == int((packed.batch.block.text != NO_TEXT).sum())


def test_rows_never_run_out(store):
    source = BatchSource(store, dataclasses.replace(CONFIG, row_length=70))
    for n in range(20):
        assert source[n].batch.block.tokens.shape[1] in source.ladder


def test_lengths_of_pairs():
    lengths = np.asarray([[5, 7], [3, 0]])
    assert pair_lengths(lengths).tolist() == [11, 0]
    assert pair_lengths(lengths, whole=True).tolist() == [12, 0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"row_length": 63}, "row_length 63 is below twice data.max_length 32"),
        ({"max_length": 2}, "max_length is 2 and data.views is reconstruction: a text takes 3"),
        ({"dropout_masks": "shared"}, "dropout_masks shared does not go with data.views reconstr"),
    ],
)
def test_what_does_not_go_with_it_is_refused(changes, says):
    with pytest.raises(UsageError, match=says):
        dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize("template", ["[CLS] $A", "$A [SEP]", "[CLS] $A [MASK]"])
def test_texts_must_begin_and_end_as_texts_do(template):
    from tokenizers.processors import TemplateProcessing

    for tokenizer in (bert_tokenizer(), roberta_tokenizer(), train_wordpiece(["a b c"], 60)):
        check_ends(tokenizer, "reconstruction")
    tokenizer = bert_tokenizer()
    ids = [
        (token, tokenizer.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]", "[MASK]")
    ]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, pair=f"{template} $B:1 [MASK]:1", special_tokens=ids
    )
    with pytest.raises(UsageError, match=r"does not put a text between its \[CLS\] and \[SEP\]"):
        check_ends(tokenizer, "reconstruction")
    with pytest.raises(
        UsageError, match=r"data\.views is paraphrases and the tokenizer does not put"
    ):
        check_tokenizer(tokenizer)
