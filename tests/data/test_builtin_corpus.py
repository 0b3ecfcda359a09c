import sys

import pytest

from simjax.data import builtin
from simjax.data.identity import normalised
from simjax.data.sources import Example, Source, read
from simjax.data.tokenizer import SPECIAL_TOKENS, train_wordpiece
from simjax.errors import SimjaxError, UsageError


@pytest.fixture(scope="module")
def corpus():
    return builtin.corpus()


def test_it_is_large_enough_to_train_on(corpus):
    assert 12_000 <= len(corpus.sentences) <= 24_000
    assert 1_900 <= len(corpus.pairs) <= 4_000
    assert 250 <= len(corpus.held_out) <= 700


def test_nothing_held_out_is_trained_on(corpus):
    trained = {normalised(sentence) for sentence in corpus.sentences}
    for entry in corpus.pairs:
        trained |= {normalised(entry.title), normalised(entry.body)}
        trained |= {normalised(sentence) for sentence in builtin._sentences(entry.body)}
    for entry in corpus.held_out:
        for text in (entry.title, entry.body, *builtin._sentences(entry.body)):
            assert normalised(text) not in trained, (entry.name, text)


@pytest.mark.parametrize("part", ["pairs", "held_out"])
def test_titles_and_bodies_are_distinct(corpus, part):
    entries = getattr(corpus, part)
    texts = [normalised(text) for entry in entries for text in (entry.title, entry.body)]
    assert len(set(texts)) == len(texts)


def test_sentences_are_distinct_prose_on_one_line(corpus):
    assert len(set(map(normalised, corpus.sentences))) == len(corpus.sentences)
    for sentence in corpus.sentences:
        assert sentence == " ".join(sentence.split())
        assert ">>>" not in sentence.split()[0]


def test_what_a_search_would_look_for_is_there(corpus):
    entries = {entry.name: entry for entry in (*corpus.pairs, *corpus.held_out)}
    assert entries["shutil.rmtree"].title == "Recursively delete a directory tree."
    assert any(name.startswith("topic:") for name in entries)
    assert "Get the lines for a Python source file from the cache." in corpus.sentences


def test_modules_are_read_and_not_imported(corpus):
    assert any(entry.name.startswith("turtle.") for entry in corpus.pairs)
    assert "turtle" not in sys.modules
    assert "pydoc_data.topics" not in sys.modules


def test_it_is_the_same_each_time(corpus):
    assert builtin.corpus.__wrapped__() == corpus


@pytest.mark.parametrize(
    ("docstring", "sentences"),
    [
        ("f(x) -> y\n\nGive back the whole of it.", ["Give back the whole of it."]),
        ("Take *one* of ``these`` here, e.g. This.", ["Take one of these here, e.g. This."]),
        (
            'He said "read it all." Then he left at once.',
            ['He said "read it all."', "Then he left at once."],
        ),
        ("Run it and see what comes:\n\n    >>> f(1, 2)\n    3", ["Run it and see what comes:"]),
        (
            "- the first of the items\n- the second of the items",
            ["the first of the items", "the second of the items"],
        ),
        (":param size: how many bytes to read", ["size: how many bytes to read"]),
        ("Too short.", []),
        ("Over one\nline and on\nto the next.", ["Over one line and on to the next."]),
    ],
)
def test_prose_is_taken_from_docstrings(docstring, sentences):
    assert builtin._sentences(docstring) == sentences


def test_definitions_are_found_where_they_stand(tmp_path, monkeypatch):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text(
        '"""Module."""\nif True:\n    class A:\n        """Class."""\n'
        '        async def f(self):\n            """Method."""\n'
    )
    monkeypatch.setattr(builtin.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    assert list(builtin._docstrings(tmp_path / "package" / "__init__.py")) == [
        ("package", "Module."),
        ("package.A", "Class."),
        ("package.A.f", "Method."),
    ]
    with pytest.raises(SimjaxError, match="comes without its documentation"):
        builtin.files()


def test_it_can_be_read_as_a_source(corpus):
    sentences = list(read(Source(format="builtin", path="sentences"), None))
    assert sentences == [Example(text) for text in corpus.sentences]
    pairs = list(read(Source(format="builtin", path="pairs"), None))
    assert pairs[0] == Example(corpus.pairs[0].title, (corpus.pairs[0].body,))
    assert len(pairs) == len(corpus.pairs)


# The tokenizer trained on it


def test_a_trained_tokenizer_works_like_berts(corpus, tmp_path):
    from transformers import AutoTokenizer, BertTokenizerFast

    texts = corpus.sentences[:2000]
    tokenizer = train_wordpiece(texts, 1000)
    assert len(tokenizer) == 1000
    assert tokenizer.convert_ids_to_tokens(range(5)) == list(SPECIAL_TOKENS)
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer.save_pretrained(tmp_path / "saved")
    peers = [
        BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")),
        AutoTokenizer.from_pretrained(tmp_path / "saved"),
    ]
    for text in (*corpus.sentences[2000:2200], "Ünïcode  WORDS, 語 and\tso [MASK] on ##s"):
        ids = tokenizer(text)["input_ids"]
        assert all(peer(text)["input_ids"] == ids for peer in peers)
    assert tokenizer("a", "b")["token_type_ids"] == [0, 0, 0, 1, 1]
    assert tokenizer.decode(tokenizer("delete the file")["input_ids"]) == (
        "[CLS] delete the file [SEP]"
    )


def test_the_same_texts_give_the_same_vocabulary(corpus):
    texts = corpus.sentences[:1000]
    vocabularies = [train_wordpiece(texts, 700).get_vocab() for _ in range(4)]
    assert all(vocabulary == vocabularies[0] for vocabulary in vocabularies)


def test_a_cased_tokenizer_keeps_case():
    tokenizer = train_wordpiece(["Ab ab"] * 3, 20, lowercase=False)
    assert tokenizer("Ab")["input_ids"] != tokenizer("ab")["input_ids"]


def test_too_little_text_or_vocabulary_is_refused():
    with pytest.raises(SimjaxError, match="no text"):
        train_wordpiece([" "], 100)
    with pytest.raises(UsageError, match="12 are needed"):
        train_wordpiece(["abcd bcd"], 10)
