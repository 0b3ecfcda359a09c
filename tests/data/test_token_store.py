import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simjax.data import sources, store_writer
from simjax.data.identity import normalised
from simjax.data.sources import Source
from simjax.data.store_writer import MARKER, TOKENS
from simjax.data.token_store import build
from simjax.data.tokenizer import train_wordpiece
from simjax.errors import SimjaxError, UsageError
from simjax.types import NO_TEXT

TEXTS = [f"word{i % 7} and {'more ' * (i % 5)}text {i}" for i in range(60)]
SOURCE = Source(path="a.txt")


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece(TEXTS, 120)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(TEXTS) + "\n")
    return tmp_path


@pytest.fixture
def make(root, tokenizer):
    def make(source=SOURCE, *, max_length=32, tokenizer=tokenizer, **options):
        options = {"cache": root / "cache", **options}
        return build(source, root, tokenizer, max_length=max_length, **options)

    return make


def tokens_of(store, text):
    return store.tokens[store.offsets[text] : store.offsets[text + 1]].tolist()


@pytest.mark.parametrize("chunk", [7, 60, 10_000])
@pytest.mark.parametrize("max_length", [6, 32])
def test_tokens_are_the_tokenizers_own(make, tokenizer, monkeypatch, chunk, max_length):
    monkeypatch.setattr(store_writer, "CHUNK", chunk)
    done = []
    store = make(max_length=max_length, progress=done.append)
    expected = tokenizer(TEXTS, truncation=True, max_length=max_length)["input_ids"]
    assert [tokens_of(store, text) for text in range(len(TEXTS))] == expected
    assert store.lengths(np.arange(len(TEXTS))).tolist() == [len(ids) for ids in expected]
    assert store.examples.tolist() == [[text] for text in range(len(TEXTS))]
    assert store.positives == 0
    assert done == [*range(chunk, 60, chunk), 60]


def test_the_tokenizers_own_padding_and_truncation_do_not_count(make, tokenizer):
    whole = make()
    baked = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    baked.backend_tokenizer.enable_padding(length=64)
    baked.backend_tokenizer.enable_truncation(4)
    try:
        assert make(tokenizer=baked).fingerprint == whole.fingerprint
    finally:
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()


def test_views_are_a_rectangle_padded_with_no_text(make, root):
    (root / "a.jsonl").write_text(
        '{"query": "a", "pos": ["b", "c"], "neg": "d"}\n'
        '{"query": "A", "pos": "e"}\n'
        '{"query": "", "pos": "e"}\n'
        '{"query": "f", "pos": "b", "neg": ["a", "g", "h"]}\n'
    )
    store = make(Source(path="a.jsonl"))
    assert store.positives == 2
    assert store.skipped == 1
    no = NO_TEXT
    assert store.examples.tolist() == [
        [0, 1, 2, 3, no, no],
        [4, 5, no, no, no, no],
        [6, 7, no, 8, 9, 10],
    ]
    assert store.examples.dtype == store.text_ids.dtype == store.labels.dtype == np.int32
    # a b c d A e f b a g h
    assert store.text_ids.tolist() == [0, 1, 2, 3, 0, 4, 5, 1, 0, 6, 7]
    assert store.labels.tolist() == [-1] * 3


def test_labels_are_numbered_by_first_appearance(make, root):
    (root / "a.csv").write_text("text,kind\na,x\nb,\nc,y\nd,x\n")
    store = make(Source(path="a.csv", label="kind"))
    assert store.labels.tolist() == [0, -1, 1, 0]
    assert store.label_names == ("x", "y")


def test_scores_are_kept_and_nan_where_there_is_none(make, root):
    (root / "a.csv").write_text("text,score\na,0.5\nb,\nc,-2\n")
    store = make(Source(path="a.csv", anchor="text", score="score"))
    np.testing.assert_array_equal(store.scores, np.float32([0.5, np.nan, -2]))
    assert np.isnan(make().scores).all() and make().scores.dtype == np.float32


@given(st.text(), st.text())
def test_white_space_does_not_tell_texts_apart(a, b):
    assert normalised(f"  {a}\t\n{b} ") == normalised(f"{a} {b}")


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("The  cat\n", "the cat", True),
        ("ﬁne", "fine", True),
        ("STRASSE", "straße", True),
        ("e\u0301", "é", True),
        ("cat.", "cat", False),
        ("résumé", "resume", False),
        ("item 1", "item 2", False),
    ],
)
def test_what_counts_as_the_same_text(a, b, same):
    assert (normalised(a) == normalised(b)) is same


def test_examples_that_repeat_others_are_left_out_when_asked(make, root):
    (root / "a.csv").write_text(
        "a,b,kind,score\n"
        "one,two,x,1\n"
        "two,one,x,1\n"  # other roles
        "ONE,  two,x,1.0\n"  # the same
        "one,two,y,1\n"  # another class
        "one,two,x,2\n"  # another score
        "one,,x,1\n"  # empty
        "two,One,x,1\n"  # the same
        "three,four,x,1\n"
    )
    source = Source(path="a.csv", anchor="a", positives=("b",), label="kind", score="score")
    whole, distinct = make(source), make(source, drop_duplicates=True)
    assert whole.fingerprint != distinct.fingerprint
    assert (whole.repeated, whole.skipped, whole.sizes) == (0, 1, (7,))
    assert (distinct.repeated, distinct.skipped, distinct.sizes) == (2, 1, (5,))
    rows = distinct.text_ids[distinct.examples].tolist()
    assert rows == [[0, 1], [1, 0], [0, 1], [0, 1], [2, 3]]
    assert distinct.labels.tolist() == [0, 0, 1, 0, 0]
    assert distinct.scores.tolist() == [1, 1, 1, 2, 1]
    # Texts of what was left out take no room, and a chunk may be left out as a whole.
    assert len(distinct.text_ids) == 10
    again = make(source, drop_duplicates=True)
    assert (again.repeated, again.fingerprint) == (2, distinct.fingerprint)


def test_long_texts_make_smaller_chunks(make, root, monkeypatch):
    lines = [f"{i} {'cat ' * (i % 5)}".strip() for i in range(40)]
    lines[11] = "long " * 100
    (root / "a.txt").write_text("".join(f"{line}\n" for line in [*lines, lines[3]]))
    done = []
    whole = make(drop_duplicates=True)
    monkeypatch.setattr(store_writer, "CHARACTERS", 64)
    again = make(drop_duplicates=True, cache=root / "again", progress=done.append)
    for name in ("tokens", "offsets", "text_ids", "digests", "examples"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    assert again.repeated == whole.repeated == 1
    sizes = np.diff([0, *done])
    assert sizes.max() <= 32 and len(set(sizes.tolist())) > 2


def test_a_chunk_of_nothing_but_repetitions(make, root, monkeypatch):
    monkeypatch.setattr(store_writer, "CHUNK", 2)
    (root / "a.txt").write_text("a\nb\nA\nB\nc\n")
    store = make(drop_duplicates=True)
    assert store.repeated == 2
    assert store.text_ids.tolist() == [0, 1, 2]
    assert (np.diff(store.offsets) == store.lengths(np.arange(3))).all()
    assert len(store.offsets) == 4


# Reuse


def test_a_store_is_reused(make, root, monkeypatch):
    first = make()
    monkeypatch.setattr(sources, "read", None)
    again = make()
    assert again.fingerprint == first.fingerprint
    assert (again.tokens == first.tokens).all()
    # Neither the name nor the time of a file counts, nor where the cache is.
    (root / "a.txt").rename(root / "b.txt")
    os.utime(root / "b.txt", (0, 0))
    assert make(Source(path="b.txt")).fingerprint == first.fingerprint


def test_whatever_changes_the_tokens_changes_the_fingerprint(make, root):
    (root / "t.csv").write_text("text,other\na,b\n")
    other = train_wordpiece(TEXTS, 60)
    found = [
        make().fingerprint,
        make(max_length=31).fingerprint,
        make(tokenizer=other).fingerprint,
        make(Source(path="t.csv")).fingerprint,
        make(Source(path="t.csv", anchor="other")).fingerprint,
        make(Source(path="t.csv", format="text")).fingerprint,
    ]
    (root / "a.txt").write_text("\n".join(TEXTS))
    found.append(make().fingerprint)
    assert len(set(found)) == len(found)


def drop_marker(folder: Path) -> None:
    (folder / MARKER).unlink()


def cut_marker(folder: Path) -> None:
    (folder / MARKER).write_text((folder / MARKER).read_text()[:-9])


def swap_stores(folder: Path) -> None:
    """Another store's files, of the same sizes."""
    (folder / TOKENS).write_bytes(bytes((folder / TOKENS).stat().st_size))
    text = (folder / MARKER).read_text()
    (folder / MARKER).write_text(text.replace(folder.name, "0" * len(folder.name)))


def cut_tokens(folder: Path) -> None:
    os.truncate(folder / TOKENS, 10)


def drop_array(folder: Path) -> None:
    (folder / "offsets.npy").unlink()


def cut_tokens_and_say_so(folder: Path) -> None:
    """As a disk that was full, and did not tell, would leave it."""
    marker = json.loads((folder / MARKER).read_text())
    os.truncate(folder / TOKENS, marker["bytes"][TOKENS] - 2)
    marker["bytes"][TOKENS] -= 2
    (folder / MARKER).write_text(json.dumps(marker))


def put_a_file_there(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("in the way")


@pytest.mark.parametrize(
    "damage",
    [
        drop_marker,
        cut_marker,
        swap_stores,
        cut_tokens,
        cut_tokens_and_say_so,
        drop_array,
        put_a_file_there,
    ],
)
def test_a_damaged_store_is_built_again(make, root, damage):
    whole = make()
    tokens = np.array(whole.tokens)
    folder = root / "cache" / whole.fingerprint
    damage(folder)
    assert (make().tokens == tokens).all()
    assert [path.name for path in (root / "cache").iterdir()] == [whole.fingerprint]


# What is refused


def test_no_examples(make, root):
    (root / "b.csv").write_text("text\n")
    with pytest.raises(SimjaxError, match=r"b\.csv: no examples$"):
        make(Source(path="b.csv"))
    (root / "b.txt").write_text("\n \n")
    with pytest.raises(SimjaxError, match=r"b\.txt: no examples, 2 were skipped for empty texts"):
        make(Source(path="b.txt"))


def test_a_length_without_room_for_text(make):
    with pytest.raises(UsageError, match="max_length 2 leaves no room"):
        make(max_length=2)


def test_a_cache_that_cannot_be_written(make, root):
    (root / "taken").write_text("")
    with pytest.raises(SimjaxError, match=r"taken: the token store cannot be written.*data\.cache"):
        make(cache=root / "taken")


def test_large_vocabularies_do_not_overflow(make, root, tokenizer):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"a": 0, "b": 70_000, "[UNK]": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    (root / "b.txt").write_text("a b c\n")
    store = make(
        Source(path="b.txt"),
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]"),
    )
    assert store.tokens.tolist() == [0, 70_000, 1]
    assert make().tokens.dtype == np.uint16


def test_a_source_that_changes_between_readings(make, root, monkeypatch):
    """Where duplicates are dropped it is read twice."""
    repeated = store_writer._repeated
    for texts in (TEXTS[:-1], [*TEXTS, "more"]):

        def then_changed(*args, texts=texts):
            found = repeated(*args)
            (root / "a.txt").write_text("\n".join(texts) + "\n")
            return found

        (root / "a.txt").write_text("\n".join(TEXTS) + "\n")
        monkeypatch.setattr(store_writer, "_repeated", then_changed)
        with pytest.raises(SimjaxError, match=r"a\.txt: changed while it was read; start again"):
            make(drop_duplicates=True)


def test_nothing_but_empty_texts_without_duplicates(make, root):
    (root / "b.txt").write_text("\n \n")
    with pytest.raises(SimjaxError, match=r"no examples, 2 were skipped"):
        make(Source(path="b.txt"), drop_duplicates=True)


def test_a_store_is_a_folder_of_its_arrays_alone(make, root):
    folder = root / "cache" / make(drop_duplicates=True).fingerprint
    names = {MARKER, TOKENS, *(f"{name}.npy" for name in store_writer.ARRAYS)}
    assert {path.name for path in folder.iterdir()} == names
