"""What pieces say of words, and tables of synonyms as tokens."""

import numpy as np
import pytest

from simjax.data.augment import Synonyms
from simjax.data.synonyms import SynonymTable
from simjax.data.tokenizer import train_wordpiece
from simjax.data.views import Augmenter
from simjax.data.words import Words
from simjax.errors import SimjaxError


def test_pieces_of_wordpiece_go_on_with_a_word():
    tokenizer = train_wordpiece(["abc abd xyz"] * 3, 60)
    found = Words.of(tokenizer)
    ids = tokenizer.get_vocab()
    for piece, number in ids.items():
        assert found.goes_on[number] == piece.startswith("##"), piece
        assert found.special[number] == (piece in ("[PAD]", "[CLS]", "[SEP]", "[MASK]")), piece
    assert (found.mask, found.unknown, found.spaced) == (ids["[MASK]"], ids["[UNK]"], False)


def starts_under(pre_tokenizer, text, pieces):
    """What a tokenizer's pieces say, and which tokens of a text begin a word."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {piece: number for number, piece in enumerate(["<s>", "</s>", "<unk>", *pieces])}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizer
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    ids = np.asarray(tokenizer(text)["input_ids"])
    found = Words.of(tokenizer)
    return found, found.starts(ids, np.arange(len(ids)) == 0, tokens_alone=False)[0].tolist()


def test_other_pieces_begin_a_word_where_a_space_is():
    from tokenizers import pre_tokenizers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found, starts = starts_under(byte_level, "ab ab\nb", ["a", "b", "Ġ", "Ċ"])
    assert starts == [True, False, True, False, False, True, False]
    assert found.spaced and found.mask is None
    several = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁")]
    )
    found, starts = starts_under(several, "ab b", ["a", "b", "▁"])
    assert starts == [True, False, False, True, False]
    assert not found.spaced


def test_where_pieces_tell_nothing_every_token_is_a_word():
    from tokenizers import pre_tokenizers

    _, starts = starts_under(pre_tokenizers.Whitespace(), "ab b", ["a", "b"])
    assert starts == [True, True, True]


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece(["big large great small dog tiny puppy"] * 3, 200)


def test_a_table_is_read_as_tokens(tmp_path, tokenizer):
    path = tmp_path / "table.tsv"
    path.write_text("big\tlarge\tgreat dog\n\nsmall\ttiny\nqqq\tdog\npuppy\tqqq\n")
    words = Words.of(tokenizer)
    table = SynonymTable.read(path, tokenizer, words)
    assert len(table.hashes) == 2 and len(table.digest) == 64
    maker = Augmenter((Synonyms(path="x", words=2, views="all"),), words, (table,), 16, 0)
    ids = np.asarray(tokenizer("big small dog")["input_ids"])
    count = 60
    starts, lengths = np.zeros((count, 1), int), np.full((count, 1), len(ids))
    tokens, starts, lengths = maker(0, np.arange(count), ids, starts, lengths, 0)
    found = {
        tokenizer.decode(tokens[start : start + length], skip_special_tokens=True)
        for start, length in zip(starts.ravel(), lengths.ravel(), strict=True)
    }
    assert found == {"large tiny dog", "great dog tiny dog"}


def test_byte_level_words_are_found_at_the_start_and_behind_a_space(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<s>", "</s>", "<unk>", "a", "b", "Ġ", "Ġa"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocabulary, [("Ġ", "a")], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    (tmp_path / "table.tsv").write_text("a\tb\n")
    words = Words.of(tokenizer)
    table = SynonymTable.read(tmp_path / "table.tsv", tokenizer, words)
    maker = Augmenter((Synonyms(path="x", words=2, views="all"),), words, (table,), 16, 0)
    ids = np.asarray(backend.encode("a a ba").ids)
    assert ids.tolist() == [3, 6, 5, 4, 3]
    made, _, _ = maker(0, np.zeros(1, int), ids, np.zeros((1, 1), int), np.full((1, 1), 5), 0)
    assert made.tolist() == [4, 5, 4, 5, 4, 3]


def test_words_that_are_one_to_the_tokenizer_share_their_synonyms(tmp_path, tokenizer):
    (tmp_path / "table.tsv").write_text("big\tlarge\tBIG\nBig\tgreat\tlarge\n")
    table = SynonymTable.read(tmp_path / "table.tsv", tokenizer, Words.of(tokenizer))
    parts = np.split(table.tokens, np.cumsum(table.length)[:-1])
    large, great = tokenizer(["large", "great"], add_special_tokens=False).input_ids
    assert table.count.tolist() == [2]
    assert [part.tolist() for part in parts] == [large, great]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"big\tlarge\nsmall\n", r":2: expected a word, a tab and a synonym"),
        (b"big\tlarge\t\tgreat\n", r":1: expected a word, a tab"),
        (b"\tlarge\n", r":1: expected a word, a tab"),
        (b"very big\tlarge\n", r":1: 'very big' is several words"),
        (b"big\tlarge\n\nbig\tgreat\n", r":3: 'big' has synonyms on line 1 already"),
        (b"big\tlarge\tbig\n", r":1: 'big' is a synonym of itself"),
        (b"big\tlarge\nsm\xff\ttiny\n", r":2: not valid UTF-8"),
        (b"qqq\tlarge\nbig\tqqq\n", r"table.tsv: the tokenizer knows none"),
        (b"", r"table.tsv: the tokenizer knows none"),
    ],
)
def test_faulty_tables_are_refused(tmp_path, tokenizer, content, message):
    path = tmp_path / "table.tsv"
    path.write_bytes(content)
    with pytest.raises(SimjaxError, match=message):
        SynonymTable.read(path, tokenizer, Words.of(tokenizer))


def test_a_table_that_is_not_there_is_refused(tmp_path, tokenizer):
    with pytest.raises(SimjaxError, match=r"none.tsv: No such file"):
        SynonymTable.read(tmp_path / "none.tsv", tokenizer, Words.of(tokenizer))
