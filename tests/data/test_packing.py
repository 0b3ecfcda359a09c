import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simjax.data.packing import best_fit_blocks, best_fit_decreasing, deal, pack, pack_texts
from simjax.types import NO_TEXT, Block

ROW_LENGTH = 16
lengths_of = st.lists(st.integers(0, ROW_LENGTH), max_size=60)


def best_fit_rows(lengths: list[int], row_length: int) -> int:
    """Best-fit decreasing as its definition says it, one row after another looked at."""
    rooms: list[int] = []
    for length in sorted((length for length in lengths if length), reverse=True):
        fitting = [index for index, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting, key=lambda index: rooms[index])] -= length
        else:
            rooms.append(row_length - length)
    return len(rooms)


@given(lengths_of)
def test_no_two_texts_overlap_and_rows_are_those_of_best_fit(lengths):
    placement = best_fit_decreasing(np.array(lengths, int), ROW_LENGTH)
    taken = np.zeros((placement.rows, ROW_LENGTH), int)
    for length, row, column in zip(lengths, placement.row, placement.column, strict=True):
        assert column + length <= ROW_LENGTH
        if length:
            taken[row, column : column + length] += 1
    assert taken.max(initial=0) <= 1
    assert taken.sum() == sum(lengths)
    assert placement.rows == best_fit_rows(lengths, ROW_LENGTH)
    assert (taken.sum(axis=1) > 0).all()
    assert placement.rows <= np.ceil(2 * sum(lengths) / ROW_LENGTH)


@pytest.mark.parametrize("seed", range(5))
def test_many_texts_take_as_few_rows_as_best_fit(seed):
    lengths = np.random.default_rng(seed).integers(3, 50, 400)
    expected = best_fit_rows(lengths.tolist(), 64)
    assert best_fit_decreasing(lengths, 64).rows == expected


@pytest.mark.parametrize("blocks", [1, 5, 64, 1500])
@pytest.mark.parametrize("texts", [1, 2, 40])
@pytest.mark.parametrize("shortest", [0, 7])
def test_texts_of_many_blocks_are_where_they_are_in_each_alone(blocks, texts, shortest):
    rng = np.random.default_rng(blocks + texts)
    lengths = rng.integers(shortest, ROW_LENGTH + 1, (blocks, texts), dtype=np.int32)
    lengths[rng.random(lengths.shape) < 0.1] = 0
    lengths[-1] = 0
    alone = [best_fit_decreasing(block, ROW_LENGTH) for block in lengths]
    placed = best_fit_blocks(lengths, ROW_LENGTH)
    np.testing.assert_array_equal(placed.row, [placement.row for placement in alone])
    np.testing.assert_array_equal(placed.column, [placement.column for placement in alone])
    assert placed.rows == max(placement.rows for placement in alone)


@pytest.mark.parametrize("lengths", [[3, 17], [-1, 2]])
def test_a_length_outside_the_row_is_refused(lengths):
    with pytest.raises(ValueError, match="rows of 16"):
        best_fit_decreasing(np.array(lengths), ROW_LENGTH)
    for blocks in (1, 64):
        with pytest.raises(ValueError, match="rows of 16"):
            best_fit_blocks(np.array([lengths] * blocks), ROW_LENGTH)


@given(st.data())
def test_dealing_uses_each_example_once_and_evens_the_tokens_out(data):
    num_blocks = data.draw(st.integers(1, 9))
    block_size = data.draw(st.integers(1, 20))
    count = num_blocks * block_size
    lengths = np.array(data.draw(st.lists(st.integers(1, 50), min_size=count, max_size=count)))
    blocks = deal(lengths, num_blocks, block_size)
    assert blocks.shape == (num_blocks, block_size)
    assert sorted(blocks.ravel()) == list(range(count))
    # The lightest block gets the longest of each round, so no two drift further apart than the
    # widest round.
    loads = lengths[blocks].sum(axis=1)
    rounds = np.sort(lengths)[::-1].reshape(block_size, num_blocks)
    assert np.ptp(loads) <= np.ptp(rounds, axis=1).max()


def test_dealing_refuses_a_batch_that_does_not_divide():
    with pytest.raises(ValueError, match="7 examples for 2 blocks of 4"):
        deal(np.ones(7, int), 2, 4)


def unpack(block: Block) -> list[list[int]]:
    """The texts of a block, token by token, checking what a reader of blocks relies on."""
    texts: list[list[int]] = [[] for _ in block.first]
    rows, row_length = block.tokens.shape
    for row in range(rows):
        for column in range(row_length):
            index = int(block.text[row, column])
            if index == NO_TEXT:
                continue
            position = int(block.positions[row, column])
            assert position == len(texts[index])
            if position == 0:
                assert block.first[index] == row * row_length + column
            texts[index].append(int(block.tokens[row, column]))
    return texts


@given(st.lists(st.lists(st.integers(1, 30_000), max_size=ROW_LENGTH), max_size=40), st.data())
def test_every_token_is_packed_once_in_its_place(texts, data):
    needed = best_fit_decreasing(np.array([len(text) for text in texts], int), ROW_LENGTH).rows
    rows = needed + data.draw(st.integers(0, 3))
    total = len(texts) + data.draw(st.integers(0, 3))
    block = pack_texts(texts, rows=rows, row_length=ROW_LENGTH, num_texts=total)
    assert block.tokens.shape == block.positions.shape == block.text.shape == (rows, ROW_LENGTH)
    assert block.first.shape == (total,)
    assert block.segment is None
    assert {array.dtype for array in jax.tree.leaves(block)} == {np.dtype(np.int32)}
    assert unpack(block) == texts + [[] for _ in range(total - len(texts))]
    assert (block.first[[index for index in range(total) if index >= len(texts)]] == 0).all()
    assert (block.positions[block.text == NO_TEXT] == 0).all()


def test_blocks_are_packed_apart_from_each_other():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 9, size=(3, 10))
    tokens = rng.integers(1, 99, size=lengths.sum()).astype(np.uint16)
    starts = (np.cumsum(lengths) - lengths.ravel()).reshape(lengths.shape)
    placed = best_fit_blocks(lengths, ROW_LENGTH)
    where = (starts, lengths, placed.row, placed.column)
    block = pack(tokens, *where, rows=8, row_length=ROW_LENGTH)
    for index in range(3):
        own = jax.tree.map(lambda array, index=index: array[index], block)
        expected = [
            tokens[start : start + length].tolist()
            for start, length in zip(starts[index], lengths[index], strict=True)
        ]
        assert unpack(own) == expected


def test_the_place_of_an_absent_text_does_not_count():
    lengths, starts = np.array([[2, 0]]), np.zeros((1, 2), int)
    where = np.array([[0, 99]])
    block = pack(np.array([7, 8]), starts, lengths, where, where, rows=1, row_length=ROW_LENGTH)
    assert block.first.tolist() == [[0, 0]]
    assert block.tokens[0, 0, :3].tolist() == [7, 8, 0]


def test_texts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit into 1 rows"):
        pack_texts([[1] * 9, [2] * 9], rows=1, row_length=ROW_LENGTH)
    with pytest.raises(ValueError, match="3 texts in a block of 2"):
        pack_texts([[1], [2], [3]], rows=1, row_length=ROW_LENGTH, num_texts=2)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_blocks_of_short_texts_are_full(seed):
    """Lengths like those of sentence pairs with a hard negative, 15 tokens on average."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.gamma(2.2, 5.8, size=(4096, 3)) + 3, 4, 128).astype(int)
    for batch, least in ((4096, 0.95), (512, 0.90)):
        own = lengths[:batch]
        blocks = deal(own.sum(axis=1), batch // 64, 64)
        rows = max(best_fit_decreasing(own[block].ravel(), 128).rows for block in blocks)
        assert own.sum() / (rows * 128 * len(blocks)) >= least
