"""The words of Chinese texts in packed rows."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import rjieba
from transformers import BertTokenizerFast

from simjax.data.chinese_words import make_chinese_words
from simjax.data.packing import pack_texts
from simjax.errors import SimjaxError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = (
    "怎么更改花呗手机号码",
    "在白云的蓝天下、一个孩子伸手摸着飞机",
    "手机",
    "我用iPhone手机看电视剧",
    "",
    "电脑坏了怎么办",
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> BertTokenizerFast:
    """Of characters, as BERT's for Chinese are; one of those above is unknown."""
    characters = {chr(number) for number in range(0x4E00, 0x9FFF)} - {"摸"}
    latin = ["、", "i", "##p", "##hon", "##e", "phone"]
    path = tmp_path_factory.mktemp("chinese") / "vocab.txt"
    path.write_text("\n".join([*SPECIAL, *sorted(characters), *latin]), encoding="utf-8")
    return BertTokenizerFast(vocab=str(path))


def expected(text: str, tokens: list[str]) -> list[bool]:
    """Of a text's tokens, by jieba's words of each piece of it that is Chinese throughout."""
    found, pieces = [False] * len(tokens), []
    for place, token in enumerate(tokens):
        if len(token) == 1 and "\u4e00" <= token <= "\u9fff":
            if pieces and pieces[-1][-1] == place - 1:
                pieces[-1].append(place)
            else:
                pieces.append([place])
    for piece in pieces:
        start = piece[0]
        for word in rjieba.cut("".join(tokens[place] for place in piece)):
            found[start + 1 : start + len(word)] = [True] * (len(word) - 1)
            start += len(word)
    return found


def test_they_are_those_of_jieba_in_each_text(tokenizer):
    words = make_chinese_words(tokenizer)
    assert words is not None
    texts = [tokenizer(text)["input_ids"] if text else [] for text in TEXTS]
    block = pack_texts(texts, rows=3, row_length=32)
    found = words.goes_on(block)
    assert found.shape == block.tokens.shape and not found[block.text < 0].any()
    for number, (text, ids) in enumerate(zip(TEXTS, texts, strict=True)):
        own = found[block.text == number].tolist()
        assert own == expected(text, tokenizer.convert_ids_to_tokens(ids)), text
    assert found[block.text == 0].tolist() == [
        *(False, False, True, False, True, False, False),  # [CLS] 怎么 更改 花 呗
        *(False, True, True, True, False),  # 手机号码 [SEP]
    ]
    several = words.goes_on(
        type(block)(*(np.stack([x, x]) for x in (block.tokens, block.positions, block.text)), None)
    )
    np.testing.assert_array_equal(several, np.stack([found, found]))


def test_characters_of_two_texts_or_rows_are_no_word(tokenizer):
    words = make_chinese_words(tokenizer)
    one, other = (tokenizer.convert_tokens_to_ids(character) for character in "手机")
    assert one != tokenizer.unk_token_id != other
    beside = pack_texts([[one], [other]], rows=1, row_length=2)
    assert not words.goes_on(beside).any()
    below = pack_texts([[one, one], [other, other]], rows=2, row_length=2)
    assert not words.goes_on(below)[1, 0]
    together = pack_texts([[one, other]], rows=1, row_length=2)
    assert words.goes_on(together).tolist() == [[False, True]]


def test_only_a_vocabulary_of_chinese_needs_the_library(tokenizer, tmp_path, monkeypatch):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, "a", "手", "机"]), encoding="utf-8")
    monkeypatch.setitem(sys.modules, "rjieba", None)
    assert make_chinese_words(BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))) is None
    with pytest.raises(SimjaxError, match=r"found by the library rjieba, which is not installed"):
        make_chinese_words(tokenizer)
