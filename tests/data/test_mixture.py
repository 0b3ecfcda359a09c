import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from simjax.data import corpus, mixture, numbering
from simjax.data.config import DataConfig
from simjax.data.corpus import Texts, prepare
from simjax.data.identity import normalised
from simjax.data.pipeline import BatchSource, batches
from simjax.data.sources import Source, prompted, read
from simjax.data.tokenizer import train_wordpiece
from simjax.errors import SimjaxError, UsageError
from simjax.types import NO_TEXT

QUESTIONS = Source(path="questions.jsonl", anchor_prefix="query: ", document_prefix="passage: ")
PAIRS = Source(path="pairs.parquet", anchor="a", positives=("b",), label="kind", score="score")
LINES = Source(path="kinds.csv", anchor="x", positives=("y",), label="kind")
SOURCES = (QUESTIONS, PAIRS, LINES)
SIZES = (30, 20, 12)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three kinds of file; questions have up to two positives and three negatives."""
    root = tmp_path_factory.mktemp("mixture")
    with (root / "questions.jsonl").open("w") as file:
        for i in range(30):
            record = {
                "query": f"Question {i}",
                "pos": [f"answer {i}", f"reply {i}"][: 1 + i % 2],
                "neg": [f"wrong {i} {k}" for k in range(i % 4)],
            }
            file.write(json.dumps(record) + "\n")
    pairs = {
        "a": [f"QUESTION  {i}" for i in range(20)],
        "b": [f"other {i}" for i in range(20)],
        "kind": [f"k{i % 2}" for i in range(20)],
        "score": [i / 8 if i % 3 else None for i in range(20)],
    }
    parquet.write_table(pa.table(pairs), root / "pairs.parquet")
    rows = [f"line {i},other {i},{['k1', '', 'k9'][i % 3]}\n" for i in range(12)]
    (root / "kinds.csv").write_text("x,y,kind\n" + "".join(rows))
    return root


@pytest.fixture(scope="module")
def tokenizer():
    words = "question answer reply wrong other line query passage : "
    return train_wordpiece([words + " ".join(map(str, range(30)))] * 2, 120)


@pytest.fixture(scope="module")
def make(root, tokenizer):
    def make(sources=SOURCES, **options):
        options = {"batch_size": 12, "block_size": 4, "max_length": 16, "row_length": 32} | options
        config = DataConfig(
            root=str(root), sources=sources, cache=str(root / "cache"), seed=1, **options
        )
        return config, prepare(config, tokenizer)

    return make


@pytest.fixture(scope="module")
def wanted(root):
    """(source, example) of each example of the mixture, read without a store."""
    return [(source, example) for source in SOURCES for example in read(source, root)]


def of_batch(batch, num_views):
    """Label, score, ids and decodable tokens of each example of a batch."""
    block = batch.block
    for k in range(len(batch.place)):
        for e in range(batch.ids.shape[1]):
            tokens = []
            for view in range(num_views):
                here = block.text[k] == e * num_views + view
                order = np.argsort(block.positions[k][here])
                tokens.append(block.tokens[k][here][order].tolist())
            score = float(batch.scores[k, e])
            yield int(batch.labels[k, e]), score, batch.ids[k, e].tolist(), tokens


@pytest.mark.parametrize("mixing", ["one_source", "mixed"])
def test_batches_hold_texts_prompts_labels_and_scores(make, tokenizer, wanted, mixing):
    config, store = make(mixing=mixing)
    source = BatchSource(store, config)
    assert (source.num_views, source.num_positives) == (6, 2)
    assert source.num_examples == 62 and store.sizes == SIZES
    classes = [(PAIRS, "k0"), (PAIRS, "k1"), (LINES, "k1"), (LINES, "k9")]
    id_of: dict[str, int] = {}
    for _, example in wanted:
        for text in (example.anchor, *example.positives, *example.negatives):
            id_of.setdefault(normalised(text), len(id_of))
    seen = set()
    for n in range(12):
        chosen = source.examples(n)
        expected = []
        for own, example in (wanted[number] for number in chosen):
            documents = (*example.positives, *example.negatives)
            views = [0, *range(1, 1 + len(example.positives))]
            views += [3 + k for k in range(len(example.negatives))]
            ids, tokens = [NO_TEXT] * 6, [[] for _ in range(6)]
            both = zip(views, (example.anchor, *documents), prompted(own, example), strict=True)
            for view, text, spoken in both:
                ids[view] = id_of[normalised(text)]
                tokens[view] = tokenizer(spoken)["input_ids"]
            label = -1 if example.label is None else classes.index((own, example.label))
            score = float("nan") if example.score is None else example.score
            expected.append((label, score, ids, tokens))
        found = list(of_batch(source[n].batch, 6))
        assert sorted(map(repr, found)) == sorted(map(repr, expected))
        seen |= {SOURCES.index(wanted[number][0]) for number in chosen}
    assert seen == {0, 1, 2}


def test_sources_share_the_classes_that_they_name(make):
    named = dataclasses.replace(PAIRS, classes=("k1", "k0"))
    other = dataclasses.replace(LINES, classes=("k9", "k1"))
    _, store = make((named, other))
    assert store.label_names == ("k1", "k0", "k9")
    _, first = make((named,))
    _, second = make((other,))
    assert {*first.labels.tolist()} >= {0, 1} and {*second.labels.tolist()} >= {0, 1}
    own = np.asarray([2, 0])[np.maximum(second.labels, 0)]
    expected = [*first.labels, *np.where(second.labels < 0, -1, own)]
    assert store.labels.tolist() == [int(label) for label in expected]
    # What only one of them names is its own.
    _, mixed = make((named, LINES))
    assert mixed.label_names == ("k1", "k0", "k1", "k9")


def test_equal_texts_of_two_sources_share_an_id(make):
    _, store = make()
    ids = store.text_ids[store.examples[:, 0]]
    assert ids[:20].tolist() == ids[30:50].tolist()
    assert len(set(ids[:30])) == 30
    others = store.text_ids[store.examples[:, 1]]
    assert others[30:42].tolist() == others[50:62].tolist()
    assert sorted(set(store.text_ids.tolist())) == list(range(len(store.digests)))
    # In the first source ids are what they are there.
    _, alone = make((QUESTIONS,))
    assert store.text_ids[: len(alone.text_ids)].tolist() == alone.text_ids.tolist()
    assert (store.digests[: len(alone.digests)] == alone.digests).all()


def test_many_small_parts_do_not_pile_up_in_memory(tmp_path, monkeypatch):
    values = np.arange(60, dtype=np.uint16)
    parts = []
    for number in range(3):
        path = tmp_path / f"{number}.bin"
        values[20 * number : 20 * number + 20].tofile(path)
        parts.append(np.memmap(path, np.uint16, "r"))
    released = []
    monkeypatch.setattr(mixture, "release", lambda part: released.append(int(part[0])))
    places = np.array([41, 3, 22, 59])
    for window, expected in ((120, []), (119, [0, 20, 40])):
        monkeypatch.setattr(mixture, "WINDOW", window)
        assert mixture.JoinedTokens(parts)[places].tolist() == places.tolist()
        assert released == expected


def test_going_through_the_texts_lets_go_of_the_digests(make, monkeypatch):
    config, store = make()
    whole = list(corpus.distinct_texts(config, store))
    assert len(whole) == len(store.digests) > 20
    released = []
    monkeypatch.setattr(corpus, "release", released.append)
    monkeypatch.setattr(corpus, "_ROWS", 10)
    assert list(corpus.distinct_texts(config, store)) == whole
    assert len(released) == len(whole) // 10
    assert all(values is store.digests for values in released)


def test_more_texts_together_than_have_numbers(make, monkeypatch):
    _, store = make()
    monkeypatch.setattr(numbering, "MOST_TEXTS", len(store.text_ids) - 1)
    with pytest.raises(SimjaxError, match=r"data\.sources: more than \d+ texts"):
        make((LINES, PAIRS, QUESTIONS))


def test_positives_and_negatives_stand_in_columns_of_their_own(make, root):
    (root / "triples.csv").write_text(
        "anchor,positive,negative\n" + "".join(f"a {i},p {i},n {i}\n" for i in range(12))
    )
    triples = Source(path="triples.csv")
    _, own = make((triples,))
    assert own.examples.shape == (12, 3)
    for sources, begin in (((QUESTIONS, triples), 30), ((triples, QUESTIONS), 0)):
        _, store = make(sources)
        assert (store.positives, store.examples.shape) == (2, (42, 6))
        found = store.examples[begin : begin + 12]
        assert (found[:, [2, 4, 5]] == NO_TEXT).all()
        first = 0 if begin == 0 else len(store.text_ids) - len(own.text_ids)
        assert (found[:, [0, 1, 3]] == own.examples + first).all()


def test_dropout_views_need_no_positives(make):
    lines = Source(path="kinds.csv", anchor="x", label="kind")
    config, store = make((PAIRS, lines), views="dropout", mixing="mixed", no_duplicates=True)
    source = BatchSource(store, config)
    ids = source[3].batch.ids
    assert ids.shape == (3, 4, 2) and (ids[..., 0] == ids[..., 1]).all()
    assert len(np.unique(ids)) == 12


def test_prompts_decide_tokens_and_not_identity(make, tokenizer):
    _, spoken = make((QUESTIONS,))
    _, plain = make((Source(path="questions.jsonl"),))
    assert spoken.fingerprint != plain.fingerprint
    assert spoken.text_ids.tolist() == plain.text_ids.tolist()

    def first(store, view):
        text = store.examples[1, view]
        return tokenizer.decode(
            store.tokens[np.arange(store.offsets[text], store.offsets[text + 1])],
            skip_special_tokens=True,
        )

    assert [first(spoken, view) for view in (0, 1, 3)] == [
        "query : question 1",
        "passage : answer 1",
        "passage : wrong 1 0",
    ]
    assert [first(plain, view) for view in (0, 1)] == ["question 1", "answer 1"]


def test_each_source_keeps_its_own_store(make, root, tokenizer, monkeypatch):
    _, store = make()
    _, swapped = make((LINES, PAIRS, QUESTIONS))
    assert store.fingerprint != swapped.fingerprint
    from simjax.data import store_writer

    # Nothing is read again for another mixture of the same sources.
    monkeypatch.setattr(store_writer, "write", None)
    _, fewer = make((PAIRS, LINES))
    assert len({store.fingerprint, swapped.fingerprint, fewer.fingerprint}) == 3
    config = DataConfig(root=str(root), sources=SOURCES, cache=str(root / "new"), max_length=16)
    monkeypatch.undo()
    done = []
    prepare(config, tokenizer, progress=done.append)
    assert done == [30, 50, 62]


def test_a_mixture_goes_on_where_it_was(make):
    config, store = make(mixing="mixed", no_duplicates=True)
    iterator = batches(BatchSource(store, config), prefetch=3)
    for _ in range(7):
        next(iterator)
    state = iterator.get_state()
    assert state == {"next_index": 7}
    expected = [next(iterator) for _ in range(3)]
    iterator.close()
    halves = [BatchSource(store, config, process_index=i, process_count=3) for i in range(3)]
    for own, half in enumerate(halves):
        resumed = batches(half, prefetch=2)
        resumed.set_state(state)
        for packed in expected:
            batch = next(resumed).batch
            for name in ("ids", "labels", "scores", "place"):
                whole = getattr(packed.batch, name)[own : own + 1]
                assert getattr(batch, name).tobytes() == whole.tobytes()
            assert (batch.block.tokens == packed.batch.block.tokens[own : own + 1]).all()
        resumed.close()


def test_no_duplicates_of_a_mixture(make):
    for mixing in ("one_source", "mixed"):
        repeated = []
        for no_duplicates in (True, False):
            config, store = make(mixing=mixing, no_duplicates=no_duplicates)
            source = BatchSource(store, config)
            shared = 0
            for n in range(12):
                seen: set[int] = set()
                for ids in source[n].batch.ids.reshape(12, -1):
                    own = set(ids.tolist()) - {NO_TEXT}
                    shared += not seen.isdisjoint(own)
                    seen |= own
            repeated.append(shared)
        assert repeated[0] == 0
        # The sources have no texts twice; together they do.
        assert repeated[1] > 0 or mixing == "one_source"


def test_weights_choose_the_share(make):
    weighted = tuple(
        dataclasses.replace(source, weight=weight)
        for source, weight in zip(SOURCES, (1, 2, 1), strict=True)
    )
    config, store = make(weighted, mixing="mixed")
    source = BatchSource(store, config)
    for n in range(8):
        numbers = np.searchsorted([30, 50], source.examples(n), side="right")
        assert np.bincount(numbers).tolist() == [3, 6, 3]


def test_a_tokenizer_learns_from_all_sources_and_prompts(make):
    config, _ = make()
    found = list(Texts(config))
    assert found[:2] == ["query: Question 0", "passage: answer 0"]
    assert {"QUESTION  3", "other 3", "line 3", "passage: wrong 3 2"} <= set(found)


# What is refused


def test_faults_name_the_source(make, root):
    lines = Source(path="kinds.csv", anchor="x", label="kind")
    with pytest.raises(SimjaxError, match=r"kinds\.csv: the examples have an anchor and no posi"):
        BatchSource(*reversed(make((PAIRS, lines))))
    with pytest.raises(SimjaxError, match=r"kinds\.csv: holds 12 examples, fewer than a batch of"):
        BatchSource(*reversed(make(batch_size=16)))
    heavy = tuple(
        Source(path=source.path, anchor=source.anchor, positives=source.positives, weight=weight)
        for source, weight in ((PAIRS, 1), (LINES, 5))
    )
    config, store = make(heavy, batch_size=16, mixing="mixed")
    with pytest.raises(SimjaxError, match=r"14 of them from here: .*or the weight of this source"):
        BatchSource(store, config)
    with pytest.raises(UsageError, match=r"^data\.sources\[1\]\.anchor is not set"):
        make((PAIRS, Source(path="kinds.csv", positives=("y",))))
    with pytest.raises(UsageError, match=r"^data\.sources\[1\]\.path is not set"):
        make((PAIRS, Source()))


def test_sources_and_weights_that_contradict_each_other():
    with pytest.raises(UsageError, match=r"data\.sources is given and data\.source is as well"):
        DataConfig(source=PAIRS, sources=SOURCES)
    with pytest.raises(UsageError, match=r"data\.source\.weight is given: one source has no share"):
        DataConfig(source=Source(path="a", weight=2.0))
    with pytest.raises(UsageError, match=r"data\.sources\[1\]\.weight is missing"):
        DataConfig(sources=(Source(path="a", weight=1.0), Source(path="b")))
    for weight in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match=r"weight is .*: give a number above 0"):
            Source(path="a", weight=weight)
