import jax
import numpy as np
import pytest

from simjax.inference.calls import SHORTEST, calls, plan_rows, split_rows
from simjax.types import NO_TEXT


def lengths_of(seed, count, longest):
    return np.random.default_rng(seed).integers(2, longest + 1, count)


@pytest.mark.parametrize(
    ("rows", "most"), [(1, 1), (1, 128), (50, 128), (97, 128), (128, 128), (1000, 32), (7, 16)]
)
@pytest.mark.parametrize("blocks", [1, 2, 8])
def test_rows_are_cut_into_few_sizes_and_little_is_empty(rows, most, blocks):
    cut = list(split_rows(rows, most, blocks))
    assert sum(taken for taken, _, _ in cut) == rows
    sizes = {max(1, most // 4**k) for k in range(5)}
    for taken, computed, several in cut:
        assert computed in sizes and several in {1, blocks}
        assert 0.75 * computed * several < taken <= computed * several
    assert sum(computed < most for _, computed, _ in cut) <= 12
    # Whatever would occupy three quarters of the devices is shared out.
    assert sum(taken for taken, _, several in cut if several == 1 < blocks) <= 0.75 * blocks


@pytest.mark.parametrize("blocks", [1, 3, 8])
def test_every_text_is_in_one_call_with_its_tokens(blocks):
    lengths = lengths_of(0, 700, 60)
    lengths[[3, 400]] = [200, 700]
    tokens = np.random.default_rng(1).integers(1, 999, lengths.sum())
    starts = np.cumsum(lengths) - lengths
    seen, used = [], set()
    for call in calls(tokens, lengths, width=64, most_tokens=1024, blocks=blocks):
        shape = call.block.tokens.shape
        assert len(shape) == 2 or shape[0] == blocks
        held = shape[-2] * shape[-1] // SHORTEST
        assert call.block.first.shape == (*shape[:-2], held)
        block = jax.tree.map(lambda x: x.reshape(-1, *x.shape[-2:]), call.block)
        first = call.block.first.reshape(-1, held)
        for place, text in zip(call.places, call.texts, strict=True):
            number, place = divmod(place, held)
            there = block.text[number] == place
            expected = tokens[starts[text] : starts[text] + lengths[text]]
            np.testing.assert_array_equal(block.tokens[number][there], expected)
            np.testing.assert_array_equal(block.positions[number][there], np.arange(len(expected)))
            assert there.reshape(-1)[first[number, place]]
        assert np.count_nonzero(call.block.text != NO_TEXT) == lengths[call.texts].sum()
        seen.extend(call.texts.tolist())
        used.add(len(shape))
    assert sorted(seen) == list(range(700))
    assert used == ({2} if blocks == 1 else {2, 3})


def test_shapes_do_not_depend_on_the_texts():
    shapes = set()
    for seed in range(60):
        lengths = lengths_of(seed, 1 + seed * 13, 10 + seed * 8)
        tokens = np.ones(lengths.sum(), np.int32)
        for call in calls(tokens, lengths, width=384, most_tokens=2048):
            shapes.add((call.block.tokens.shape, call.block.first.shape))
    rungs = {48: 4, 96: 4, 192: 3, 384: 3, 512: 2, 1024: 2}
    by_length = {length: {s for s in shapes if s[0][1] == length} for length in rungs}
    assert sum(map(len, by_length.values())) == len(shapes)
    assert all(len(by_length[length]) <= rungs[length] for length in rungs)


def test_many_texts_of_two_tokens_fit():
    lengths = np.full(5000, 2)
    found = list(calls(np.ones(10000, np.int32), lengths, width=384, most_tokens=512))
    assert sum(len(call.texts) for call in found) == 5000


@pytest.mark.parametrize(
    ("length", "row_length"), [(12, 48), (30, 96), (45, 48), (90, 96), (300, 384)]
)
def test_row_length_follows_the_lengths(length, row_length):
    groups = plan_rows(np.full(640, length), width=384)
    assert [group[0] for group in groups] == [row_length]


def test_one_long_text_does_not_lengthen_the_rows_of_the_others():
    lengths = np.append(lengths_of(0, 2000, 30), 500)
    assert [group[0] for group in plan_rows(lengths, width=384)] == [48, 512]
