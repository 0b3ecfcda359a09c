import dataclasses

import jax
import numpy as np
import pytest

from simjax.data import pipeline
from simjax.data.config import DataConfig
from simjax.data.corpus import prepare
from simjax.data.packing import best_fit_decreasing, ladder
from simjax.data.pipeline import BatchSource, batches
from simjax.data.sources import Source
from simjax.data.token_store import TokenStore
from simjax.errors import SimjaxError, UsageError
from simjax.types import NO_TEXT

CONFIG = DataConfig(batch_size=24, block_size=4, row_length=32, max_length=20, seed=3)


def make_store(num_examples=100, *, positives=1, negatives=1, longest=20, absent=0.2, seed=0):
    """A store of random tokens; some examples share texts, some views are absent."""
    rng = np.random.default_rng(seed)
    num_texts = num_examples * 2
    lengths = rng.integers(2, longest + 1, num_texts)
    views = 1 + positives + negatives
    examples = rng.integers(0, num_texts, (num_examples, views)).astype(np.int32)
    examples[:, 2:][rng.random((num_examples, max(0, views - 2))) < absent] = NO_TEXT
    return TokenStore(
        tokens=rng.integers(5, 60_000, lengths.sum()).astype(np.uint16),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        text_ids=rng.integers(0, num_texts // 2, num_texts).astype(np.int32),
        digests=np.stack([np.arange(num_texts // 2, dtype=np.uint64)] * 2, axis=1),
        examples=examples,
        labels=rng.integers(-1, 5, num_examples).astype(np.int32),
        scores=np.full(num_examples, np.nan, np.float32),
        positives=positives,
        label_names=(),
        skipped=0,
        repeated=0,
        fingerprint="",
        sizes=(num_examples,),
    )


@pytest.fixture(scope="module")
def store():
    return make_store()


@pytest.fixture(scope="module")
def source(store):
    return BatchSource(store, CONFIG)


def contents(batch, num_views):
    """Each example of a batch as (label, ids, tokens of its texts), sorted."""
    found = []
    block = batch.block
    for index in range(len(batch.place)):
        texts = {}
        for text in np.unique(block.text[index]):
            where = block.text[index] == text
            order = np.argsort(block.positions[index][where])
            texts[int(text)] = tuple(block.tokens[index][where][order].tolist())
        for example in range(batch.ids.shape[1]):
            own = tuple(texts.get(example * num_views + view) for view in range(num_views))
            ids = tuple(batch.ids[index, example].tolist())
            found.append((int(batch.labels[index, example]), ids, own))
    return sorted(found, key=repr)


def expected_contents(store, examples):
    """The same, straight from the store."""
    found = []
    for example in examples:
        texts = store.examples[example]
        tokens = tuple(
            None
            if text == NO_TEXT
            else tuple(store.tokens[store.offsets[text] : store.offsets[text + 1]].tolist())
            for text in texts
        )
        ids = tuple(NO_TEXT if text == NO_TEXT else int(store.text_ids[text]) for text in texts)
        found.append((int(store.labels[example]), ids, tokens))
    return sorted(found, key=repr)


def equal(a, b):
    """Whether two trees of arrays are the same to the bit."""
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if dataclasses.is_dataclass(a):
        return all(equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))
    return a == b


@pytest.mark.parametrize("n", [0, 5, 123])
def test_a_batch_holds_its_examples(store, source, n):
    packed = source[n]
    assert contents(packed.batch, 3) == expected_contents(store, source.examples(n))
    batch = packed.batch
    assert batch.block.first.shape == (6, 12)
    assert batch.ids.shape == (6, 4, 3)
    assert batch.labels.shape == (6, 4)
    assert batch.place.tolist() == list(range(6))
    assert batch.scores is None
    assert batch.block.segment is None
    block = jax.tree.leaves(batch.block)
    arrays = [*block, batch.ids, batch.labels, batch.place]
    assert {array.dtype for array in arrays} == {np.dtype(np.int32)}
    real = int((batch.block.text != NO_TEXT).sum())
    assert packed.tokens == real
    assert packed.fill == real / batch.block.text.size
    assert packed.examples == 24
    assert batch.block.tokens.shape[1] in source.ladder


def test_neighbours_in_a_block_are_not_of_like_length(store):
    """Where negatives are an example's neighbours, they are any of the block's."""
    source = BatchSource(store, dataclasses.replace(CONFIG, views="dropout", num_views=2))
    falling = []
    for n in range(20):
        block = source[n].batch.block
        for text in block.text:
            lengths = np.bincount(text[text >= 0])[::2]
            falling.append(np.mean(np.diff(lengths) <= 0))
    assert 0.4 < np.mean(falling) < 0.75


def test_every_epoch_holds_each_example_at_most_once_in_a_new_order(source):
    assert source.steps_per_epoch == 4
    epochs = [
        np.concatenate([source.examples(epoch * 4 + step) for step in range(4)])
        for epoch in range(3)
    ]
    for epoch in epochs:
        assert len(set(epoch)) == 96
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_seed_and_the_number_alone_decide(store, source):
    again = BatchSource(store, dataclasses.replace(CONFIG, prefetch=0, block_size=8))
    other = BatchSource(store, dataclasses.replace(CONFIG, seed=4))
    assert (again.examples(7) == source.examples(7)).all()
    assert (other.examples(7) != source.examples(7)).any()


@pytest.mark.parametrize("process_count", [1, 2, 3, 6])
def test_the_blocks_do_not_depend_on_the_processes(store, source, process_count):
    shares = [
        BatchSource(store, CONFIG, process_index=index, process_count=process_count)
        for index in range(process_count)
    ]
    for n in (0, 9):
        whole = source[n]
        parts = [share[n] for share in shares]
        for part in parts:
            assert (part.tokens, part.fill, part.examples) == (whole.tokens, whole.fill, 24)
        blocks = (jax.tree.leaves(part.batch.block) for part in parts)
        joined = [np.concatenate(arrays) for arrays in zip(*blocks, strict=True)]
        assert all(map(equal, joined, jax.tree.leaves(whole.batch.block)))
        for name in ("ids", "labels", "place"):
            joined = np.concatenate([getattr(part.batch, name) for part in parts])
            assert equal(joined, getattr(whole.batch, name)), name


def test_dropout_views_repeat_the_anchor(store):
    config = dataclasses.replace(CONFIG, views="dropout", num_views=3)
    source = BatchSource(store, config)
    assert (source.num_views, source.num_positives) == (3, 2)
    anchors = dataclasses.replace(store, examples=np.repeat(store.examples[:, :1], 3, axis=1))
    found = contents(source[1].batch, 3)
    assert found == expected_contents(anchors, source.examples(1))
    for _, ids, texts in found:
        assert len(set(ids)) == len(set(texts)) == 1
        assert ids[0] != NO_TEXT


# The iterator


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_batches_come_in_order_and_stop(source, prefetch):
    found = list(batches(source, start=2, stop=7, prefetch=prefetch))
    assert len(found) == 5
    assert all(equal(batch, source[n]) for n, batch in zip(range(2, 7), found, strict=True))


def test_batches_go_on_over_epochs(source):
    iterator = batches(source, prefetch=2)
    for n in range(10):
        assert equal(next(iterator), source[n])
    iterator.close()


@pytest.mark.parametrize("prefetch", [0, 4])
def test_resuming_goes_on_with_the_next_batch(store, source, prefetch):
    iterator = batches(source, prefetch=prefetch)
    for _ in range(6):
        next(iterator)
    state = iterator.get_state()
    assert state == {"next_index": 6}
    expected = [next(iterator) for _ in range(4)]
    iterator.close()

    # In another process, over other shares, with another depth of prefetching.
    share = BatchSource(store, CONFIG, process_index=1, process_count=2)
    resumed = batches(share, prefetch=2)
    resumed.set_state(state)
    for batch in expected:
        own = next(resumed).batch
        assert equal(own.ids, batch.batch.ids[3:])
        assert equal(own.block.tokens, batch.batch.block.tokens[3:])
    resumed.close()


def test_a_fault_while_prefetching_is_raised_where_the_batch_is_asked_for(store):
    class Faulty(BatchSource):
        def __getitem__(self, n):
            if n == 2:
                raise SimjaxError("batch 2 is bad")
            return super().__getitem__(n)

    iterator = batches(Faulty(store, CONFIG), prefetch=2)
    next(iterator), next(iterator)
    with pytest.raises(SimjaxError, match="batch 2 is bad"):
        next(iterator)
    iterator.close()


# Shapes


def test_the_ladder_is_fine_where_it_matters_and_reaches_the_worst():
    assert ladder([24, 24, 25], 137) == (24, 25, 26, 33, 42, 53, 67, 84, 105, 132, 137)
    assert ladder([10, 30, 22], 100) == (10, 15, 20, 25, 30, 35, 44, 55, 69, 87, 100)
    assert ladder([3], 3) == (3,)
    assert ladder([2, 3], 3) == (2, 3)


@pytest.mark.parametrize("seed", range(5))
def test_no_batch_exceeds_the_ladder(seed):
    """A data set that a few very long examples make hard to foresee."""
    store = make_store(400, longest=5, seed=seed)
    rng = np.random.default_rng(seed)
    lengths = np.where(rng.random(800) < 0.03, 20, np.diff(store.offsets))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    store = dataclasses.replace(store, offsets=offsets, tokens=np.ones(offsets[-1], np.uint16))
    source = BatchSource(store, CONFIG)
    totals = np.where(store.examples == NO_TEXT, 0, store.lengths(np.maximum(store.examples, 0)))
    hardest = np.argsort(-totals.sum(axis=1))[:4]
    needed = best_fit_decreasing(totals[hardest].ravel(), 32).rows
    assert needed <= source.ladder[-1]
    assert list(source.ladder) == sorted(set(source.ladder))
    for n in range(40):
        assert source[n].batch.block.tokens.shape[1] in source.ladder


def test_what_is_foreseen_is_what_the_longest_source_needs(monkeypatch):
    """Of the first batches all may be of another source."""
    monkeypatch.setattr(pipeline, "_SAMPLE", 1)
    lengths = np.repeat([3, 20], [900, 100])
    examples = np.arange(1000, dtype=np.int32).reshape(-1, 2)
    store = dataclasses.replace(
        make_store(500, negatives=0),
        tokens=np.ones(lengths.sum(), np.uint16),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        examples=examples,
        sizes=(450, 50),
    )
    parts = (Source(path="short", weight=19), Source(path="long", weight=1))
    source = BatchSource(store, dataclasses.replace(CONFIG, sources=parts))
    assert not any(source.order.source_of(n) for n in range(4))
    rows = [source[n].batch.block.tokens.shape[1] for n in range(64)]
    assert source.foreseen == max(rows) > 3 * rows[0]


def test_sentence_lengths_fill_rows(store):
    rng = np.random.default_rng(1)
    lengths = np.clip(rng.gamma(2.2, 5.8, 9000) + 3, 4, 128).astype(int)
    store = dataclasses.replace(
        store,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        tokens=np.ones(lengths.sum(), np.uint16),
        text_ids=np.arange(9000, dtype=np.int32),
        examples=np.arange(9000, dtype=np.int32).reshape(-1, 3),
        labels=np.full(3000, -1, np.int32),
        scores=np.full(3000, np.nan, np.float32),
        sizes=(3000,),
    )
    source = BatchSource(store, DataConfig())
    fill = [source[n].fill for n in range(source.steps_per_epoch)]
    assert np.mean(fill) >= 0.95
    assert min(fill) >= 0.90
    assert len([rung for rung in source.ladder if rung < 1.2 * source.ladder[0]]) <= 7


@pytest.mark.data
@pytest.mark.parametrize(("batch_size", "least"), [(4096, 0.95), (512, 0.90)])
def test_nli_triples_fill_rows(data_root, tmp_path, batch_size, least):
    from transformers import BertTokenizerFast

    vocabulary = data_root / "vocab" / "bert-base-uncased-vocab.txt"
    config = DataConfig(
        root=str(data_root),
        source=Source(path="en/nli/triples_train.csv.gz"),
        batch_size=batch_size,
        cache=str(tmp_path),
    )
    source = BatchSource(prepare(config, BertTokenizerFast(vocab=str(vocabulary))), config)
    assert source.num_examples == 12_501
    assert (source.num_views, source.num_positives) == (3, 1)
    for epoch in range(2):
        steps = range(epoch * source.steps_per_epoch, (epoch + 1) * source.steps_per_epoch)
        fill = [source[n].fill for n in steps]
        print(f"batch {batch_size}, epoch {epoch}: fill {np.mean(fill):.4f}, least {min(fill):.4f}")
        assert min(fill) >= least


# What is refused, and the defaults


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"row_length": 64}, "data.row_length 64 is below data.max_length 128"),
        ({"block_size": 100}, "data.batch_size 512 is not a multiple of data.block_size 100"),
        ({"batch_size": 0}, "data.batch_size is 0"),
        ({"prefetch": -1}, "data.prefetch is -1"),
        ({"seed": -1}, "data.seed is -1"),
        ({"views": "dropout", "num_views": 1}, "data.num_views is 1"),
    ],
)
def test_numbers_that_do_not_fit_are_usage_errors(options, message):
    with pytest.raises(UsageError, match=message):
        DataConfig(**options)


@pytest.mark.parametrize(
    ("batch", "block"), [(1, 1), (16, 16), (97, 1), (100, 50), (512, 64), (66, 33)]
)
def test_blocks_divide_the_batch_by_default(batch, block):
    assert DataConfig(batch_size=batch).block == block
    assert DataConfig(batch_size=batch, block_size=1).block == 1


def test_data_that_does_not_fit_is_refused(store):
    with pytest.raises(
        SimjaxError, match=r"100 examples, fewer than a batch of 104 needs: lower data\.batch_size"
    ):
        BatchSource(store, dataclasses.replace(CONFIG, batch_size=104))
    with pytest.raises(UsageError, match=r"6 blocks .* do not divide by 4 processes"):
        BatchSource(store, CONFIG, process_count=4)
    with pytest.raises(SimjaxError, match=r"no positive: .*data\.views to dropout"):
        BatchSource(make_store(positives=0, negatives=0), CONFIG)


def test_single_texts_need_no_positives():
    source = BatchSource(
        make_store(positives=0, negatives=0), dataclasses.replace(CONFIG, views="single")
    )
    assert (source.num_views, source.num_positives) == (1, 0)
    assert source[0].batch.ids.shape[-1] == 1


def test_folders_come_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("SIMJAX_DATA", raising=False)
    assert DataConfig().root_path is None
    monkeypatch.setenv("SIMJAX_DATA", "/somewhere")
    assert str(DataConfig().root_path) == "/somewhere"
    assert str(DataConfig(root="/else").root_path) == "/else"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert DataConfig().cache_path == tmp_path / "simjax"
    assert str(DataConfig(cache="/c").cache_path) == "/c"


def test_a_file_becomes_batches(tmp_path):
    from simjax.data.tokenizer import train_wordpiece

    lines = [f"a{i % 5} b{i}\tc{i}\n" for i in range(30)]
    (tmp_path / "a.tsv").write_text("query\tpositive\n" + "".join(lines))
    config = DataConfig(
        root=str(tmp_path),
        source=Source(path="a.tsv"),
        batch_size=8,
        block_size=4,
        cache=str(tmp_path / "cache"),
    )
    done = []
    tokenizer = train_wordpiece(lines, 60)
    source = BatchSource(prepare(config, tokenizer, progress=done.append), config)
    assert done == [30]
    block = source[0].batch.block
    example = source.examples(0)[0]
    decoded = {
        tokenizer.decode(block.tokens[k][block.text[k] == t], skip_special_tokens=True)
        for k in range(2)
        for t in range(8)
    }
    assert set(lines[example].strip().split("\t")) <= decoded
