import pytest
from tokenizers import Tokenizer
from transformers import RoFormerTokenizer

from simjax.data import engine as module
from simjax.data.engine import copy_engine, serialisable, written
from simjax.data.sources import Source
from simjax.data.token_store import build
from simjax.inference.cutter import Cutter
from tests.tiny_models import SENTENCES, bert_tokenizer

TEXT = "我爱北京天安门 ab"


@pytest.fixture
def words():
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"我爱北京天安门a", "##b", "北京"]
    return RoFormerTokenizer(vocab={token: i for i, token in enumerate(tokens)})


def test_an_engine_without_parts_in_python():
    tokenizer = bert_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    engine = copy_engine(tokenizer)
    plain = bert_tokenizer().backend_tokenizer
    assert [e.ids for e in engine.encode_batch(SENTENCES)] == [
        e.ids for e in plain.encode_batch(SENTENCES)
    ]
    assert written(engine) == plain.to_str()
    assert tokenizer.backend_tokenizer.truncation and tokenizer.backend_tokenizer.padding


def test_a_splitter_in_python_is_in_the_copy_and_stays(words, monkeypatch):
    expected = words(TEXT)["input_ids"]
    assert expected == [2, 5, 6, 14, 9, 10, 11, 12, 13, 3]
    engine = copy_engine(words)
    for _ in range(2):
        assert engine.encode_batch_fast([TEXT])[0].ids == expected
        assert words(TEXT)["input_ids"] == expected
        with pytest.raises(Exception, match="cannot be serialized"):
            engine.to_str()
        assert Tokenizer.from_str(written(engine).partition("\nrjieba ")[0])
    with serialisable(engine):
        assert engine.encode(TEXT).ids != expected
    # A newer dictionary may split otherwise.
    before = written(engine)
    monkeypatch.setattr(module, "version", lambda name: "0.0")
    assert written(engine) != before


def test_stores_and_encoders_split_words(words, tmp_path):
    expected = words(TEXT)["input_ids"]
    (tmp_path / "a.txt").write_text(f"{TEXT}\n", encoding="utf-8")
    for _ in range(2):  # made, then opened
        store = build(Source(path="a.txt"), tmp_path, words, max_length=32, cache=tmp_path / "c")
        assert store.tokens[:].tolist() == expected
    ids, lengths = Cutter(words, 5)([TEXT])
    assert ids.tolist() == [*expected[:4], 3] and lengths.tolist() == [5]
