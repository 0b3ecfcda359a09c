import numpy as np
import pytest

from simjax.errors import SimjaxError
from simjax.eval import moments as module
from simjax.eval.moments import Moments, shrink


@pytest.fixture
def rows():
    # Far from zero, where sums of squares would lose every digit of float32 and half of float64's.
    return np.random.default_rng(0).normal(size=(41, 4)) + 1e6


def test_one_pass_over_chunks_is_numpy(rows, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 7)
    found = Moments.of(rows)
    np.testing.assert_allclose(found.means[0], rows.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.covariance(lost=1), np.cov(rows.T), rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(found.covariance(), np.cov(rows.T, ddof=0), rtol=1e-9, atol=1e-7)
    streamed = Moments.of_stream(iter([rows[:3], rows[3:3], rows[3:30], rows[30:]]))
    assert streamed.total == 41
    np.testing.assert_allclose(streamed.scatter, found.scatter, rtol=1e-9, atol=1e-7)


def test_classes_are_measured_apart_and_pooled(rows, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 5)
    labels = np.random.default_rng(1).integers(0, 3, 41)
    labels[:9] = 2  # chunks that lack a class
    found = Moments.of(rows, labels, 4)
    assert found.counts.tolist() == np.bincount(labels, minlength=4).tolist()
    expected = np.zeros((4, 4))
    for c in range(3):
        own = rows[labels == c]
        np.testing.assert_allclose(found.means[c], own.mean(0), rtol=1e-14)
        expected += np.cov(own.T, ddof=0) * len(own)
    np.testing.assert_allclose(found.scatter, expected, rtol=1e-8, atol=1e-6)
    assert not found.means[3].any()
    half = Moments.of(rows[:20], labels[:20], 4).merge(Moments.of(rows[20:], labels[20:], 4))
    np.testing.assert_allclose(half.scatter, found.scatter, rtol=1e-8, atol=1e-6)


def test_shrinkage_keeps_the_trace_and_gives_full_rank():
    covariance = np.diag([3.0, 1.0, 0.0, 0.0])
    np.testing.assert_allclose(shrink(covariance, 0.25), np.diag([2.5, 1.0, 0.25, 0.25]))
    assert shrink(covariance, 0.0) is not covariance
    np.testing.assert_array_equal(shrink(covariance, 0.0), covariance)
    np.testing.assert_allclose(shrink(covariance, 1.0), np.eye(4))
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(SimjaxError, match="from 0 to 1"):
            shrink(covariance, wrong)


def test_what_cannot_be_measured(rows):
    rows[3, 1] = np.inf
    with pytest.raises(SimjaxError, match="1 of 41 embeddings are not finite"):
        Moments.of(rows)
    with pytest.raises(SimjaxError, match="no embeddings"):
        Moments.of_stream([])
    with pytest.raises(SimjaxError, match="cannot be merged"):
        Moments.of(rows[:2]).merge(Moments.of(rows[:2, :3]))
    with pytest.raises(SimjaxError, match="1 embeddings have no covariance"):
        Moments.of(rows[:1]).covariance(lost=1)
