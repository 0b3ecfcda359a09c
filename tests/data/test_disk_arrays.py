import resource

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simjax.data import disk_arrays, numbering
from simjax.data.disk_arrays import NpyWriter, gather, open_array, put
from simjax.data.numbering import first_places, number_texts, repeated


@pytest.fixture
def small(monkeypatch):
    """Windows, parts and files so small that few numbers need several."""
    monkeypatch.setattr(disk_arrays, "WINDOW", 4096)
    monkeypatch.setattr(numbering, "PART", 64)
    monkeypatch.setattr(numbering, "MOST_PARTS", 5)


@pytest.mark.parametrize("columns", [None, 3])
def test_rows_that_are_written_are_read_by_numpy(tmp_path, columns) -> None:
    values = np.random.default_rng(0).integers(0, 99, (1000, columns) if columns else 1000)
    with NpyWriter(tmp_path / "x.npy", np.int32, columns) as writer:
        for begin in range(0, 1000, 300):
            writer.append(values[begin : begin + 300])
        writer.append(values[:0])
    assert writer.rows == 1000
    found = np.load(tmp_path / "x.npy")
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, values)


def test_a_full_disk_is_told(tmp_path) -> None:
    """The last few rows, which would stay in a buffer that nobody asks whether it was written."""
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with (
            pytest.raises(OSError, match="too large"),
            NpyWriter(tmp_path / "x.npy", int) as writer,
        ):
            writer.append(np.arange(4))
            resource.setrlimit(resource.RLIMIT_FSIZE, (128 + 4 * 8, kept[1]))
            writer.append(np.arange(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)


@pytest.mark.parametrize("columns", [None, 3])
@pytest.mark.parametrize("shape", [(0,), (1,), (700,), (30, 20)])
@pytest.mark.parametrize("ordered", [False, True])
def test_what_is_gathered_is_what_indexing_gives(
    tmp_path, small, monkeypatch, columns, shape, ordered
) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.integers(0, 99, (5000, columns) if columns else 5000))
    values = open_array(tmp_path / "x.npy")
    indices = rng.integers(0, 5000, shape)
    if ordered:
        indices = np.sort(indices, axis=None).reshape(shape)
    windows = []
    monkeypatch.setattr(disk_arrays, "release", lambda *maps: windows.append(maps))
    np.testing.assert_array_equal(gather(values, indices), np.array(values)[indices])
    rows = 4096 // values[0].nbytes
    assert len(windows) == len(np.unique(indices // rows))
    assert gather(np.arange(9), np.array([[3]])).tolist() == [[3]]


def test_what_is_put_is_there_after_pages_were_let_go(tmp_path, small) -> None:
    values = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.int32, (9000,))
    places = np.sort(np.random.default_rng(0).permutation(9000)[:500]).astype(np.int32)
    put(values, places, places + 1)
    expected = np.zeros(9000)
    expected[places] = places + 1
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 40), max_size=400), st.integers(0, 2**32))
def test_ids_count_first_appearances(tmp_path_factory, names, seed) -> None:
    digest_of = np.random.default_rng(seed).integers(0, 2**64, (41, 2), np.uint64)
    digest_of[:20, 0] = digest_of[0, 0]  # half a digest does not tell them apart
    folder = tmp_path_factory.mktemp("ids")
    np.save(folder / "given.npy", digest_of[names].reshape(-1, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk_arrays, "WINDOW", 64)
        patch.setattr(numbering, "PART", 16)
        patch.setattr(numbering, "MOST_PARTS", 5)
        number_texts(folder / "given.npy", folder / "ids.npy", folder / "own.npy", folder)
        again = repeated(open_array(folder / "given.npy"), folder)
        first = np.array(first_places(open_array(folder / "given.npy"), folder))
    id_of: dict[int, int] = {}
    expected = [id_of.setdefault(name, len(id_of)) for name in names]
    assert np.load(folder / "ids.npy").tolist() == expected
    assert (np.load(folder / "own.npy") == digest_of[list(id_of)].reshape(-1, 2)).all()
    assert first.tolist() == [names.index(name) for name in names]
    assert again.tolist() == [names.index(name) < place for place, name in enumerate(names)]
    assert sorted(path.name for path in folder.iterdir()) == [
        *("first.npy", "given.npy", "ids.npy", "own.npy")
    ]
