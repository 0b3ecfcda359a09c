import jax
import numpy as np
import pytest

from simjax.errors import SimjaxError
from simjax.index import exact
from simjax.index.exact import ExactIndex


def vectors(seed, count, width=24):
    x = np.random.default_rng(seed).normal(size=(count, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("devices", [1, 8])
def test_equals_float64_in_any_number_of_parts(devices, monkeypatch):
    monkeypatch.setattr(exact, "PART_BYTES", 24 * 4 * 16)
    monkeypatch.setattr(exact, "tile_of", lambda k: 16)
    monkeypatch.setattr(exact, "QUERY_BLOCK", 4)
    monkeypatch.setattr(exact, "QUERIES", 10)
    keys, queries = vectors(0, 301), vectors(1, 21)
    keys[[130, 290]] = keys[100]  # ties: 130 is on an earlier device than 100, in a later part
    queries[3] = keys[100]
    scores = queries.astype(np.float64) @ keys.astype(np.float64).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :6]
    index = ExactIndex(keys, devices=jax.devices()[:devices])
    done = []
    for _ in range(2):
        hits = index.search(queries, 6, done.append)
        np.testing.assert_array_equal(hits.rows, order)
        np.testing.assert_allclose(hits.scores, np.take_along_axis(scores, order, 1), atol=1e-6)
        index._keys = np.zeros_like(keys)  # they have stayed on the devices
    assert hits.rows[3, :3].tolist() == [100, 130, 290]
    assert sum(done) == 42
    assert len(index._resident[1]) == -(-301 // (16 * devices))


def test_keys_too_large_to_stay_are_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(exact, "RESIDENT_BYTES", 1)
    keys = vectors(0, 40)
    np.save(tmp_path / "x.npy", keys)
    index = ExactIndex(np.load(tmp_path / "x.npy", mmap_mode="r"))
    for _ in range(2):
        assert index.search(keys, 1).rows[:, 0].tolist() == list(range(40))
    assert index._resident is None


def test_fewer_keys_than_asked_for():
    keys = vectors(0, 3)
    hits = ExactIndex(keys, devices=jax.devices()).search(keys, 9)
    assert hits.rows.shape == (3, 3)
    assert sorted(hits.rows[0].tolist()) == [0, 1, 2]
    assert ExactIndex(keys[:0]).search(keys, 9).rows.shape == (3, 0)


def test_more_keys_than_int32(monkeypatch):
    monkeypatch.setattr(exact, "MOST_KEYS", 2)
    with pytest.raises(SimjaxError, match="3 embeddings: at most 2"):
        ExactIndex(vectors(0, 3))


@pytest.mark.parametrize("count", [5, 77, 1030])
def test_equal_keys_have_equal_scores_wherever_they_stand(count):
    keys = np.tile(vectors(0, 1, 384), (count, 1))
    hits = ExactIndex(keys).search(vectors(1, 3, 384), count)
    assert (hits.rows == np.arange(count)).all()
    assert (hits.scores == hits.scores[:, :1]).all()
