"""Alignment and uniformity, held to float64 statements of their formulas over all pairs."""

import itertools
import math

import jax
import numpy as np
import pytest
from scipy.special import logsumexp

from simjax.ops import align_uniform, alignment, uniformity


def points(count, width=5, seed=0, spread=1.0):
    x = np.random.default_rng(seed).normal(size=(count, width)) * spread
    x[:, 0] += 1 - spread
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def expected(x, y, pairs, t):
    square = [((x[i].astype(np.float64) - y[j]) ** 2).sum() for i, j in pairs]
    return logsumexp(-t * np.array(square)) - math.log(len(square))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 3.0])
def test_alignment_is_the_mean_distance_to_a_power(alpha):
    x, y = points(2500), points(2500, seed=1)
    distances = [math.dist(a, b) ** alpha for a, b in zip(x, y, strict=True)]
    assert alignment(x, y, [2.0, alpha])[1] == pytest.approx(np.mean(distances), rel=1e-6)
    assert np.isnan(alignment(x[:0], y[:0])).all()


@pytest.mark.parametrize("count", [2, 23, 64, 150])
@pytest.mark.parametrize("tile", [8, 24, None])
def test_every_pair_of_a_set_counts_once_whatever_the_tile(count, tile):
    x = points(count)
    widths = [0.5, 2.0, 60.0]
    found = align_uniform(x, t=widths, tile=tile)
    pairs = list(itertools.combinations(range(count), 2))
    assert found.pairs == len(pairs) and found.alignment is None
    for t, value in zip(widths, found.uniformity, strict=True):
        assert value == pytest.approx(expected(x, x, pairs, t), rel=2e-6, abs=2e-6)


@pytest.mark.parametrize("tile", [8, None])
def test_across_views_all_but_the_positives_count(tile):
    x, y = points(70), points(70, seed=1)
    found = align_uniform(x, y, alpha=[1.0, 2.0], t=[2.0], tile=tile)
    pairs = list(itertools.permutations(range(70), 2))
    assert found.pairs == len(pairs)
    assert found.uniformity[0] == pytest.approx(expected(x, y, pairs, 2.0), rel=2e-6)
    np.testing.assert_array_equal(found.alignment, alignment(x, y, [1.0, 2.0]))


@pytest.mark.parametrize("views", [1, 2])
def test_equal_texts_are_left_out(views):
    x = points(40)
    y = points(40, seed=1) if views == 2 else None
    ids = np.random.default_rng(2).integers(0, 9, 40)
    pick = itertools.permutations if views == 2 else itertools.combinations
    pairs = [(i, j) for i, j in pick(range(40), 2) if ids[i] != ids[j]]
    found = align_uniform(x, y, ids=ids, tile=8)
    assert found.pairs == len(pairs) < 780 * views
    other = x if y is None else y
    assert found.uniformity[0] == pytest.approx(expected(x, other, pairs, 2.0), rel=2e-6)


def test_extremes():
    same = np.tile(points(1), (50, 1))
    assert align_uniform(same).uniformity[0] == pytest.approx(0.0, abs=1e-6)
    opposite = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)
    np.testing.assert_allclose(align_uniform(opposite, t=[2.0, 1e4]).uniformity, [-8.0, -4e4])
    for few in (opposite[:1], opposite[:0]):
        found = align_uniform(few)
        assert found.pairs == 0 and np.isnan(found.uniformity).all()


@pytest.mark.parametrize("t", [2.0, 60.0])
def test_nan_embeddings_show(t):
    x = points(40)
    x[17, 2] = np.nan
    assert np.isnan(align_uniform(x, t=[t], tile=8).uniformity).all()


def test_the_result_does_not_depend_on_the_devices():
    x = points(200)
    alone = align_uniform(x, t=[2.0, 5.0], tile=8, devices=jax.devices()[:1])
    for count in (2, 8):
        found = align_uniform(x, t=[2.0, 5.0], tile=8, devices=jax.devices()[:count])
        np.testing.assert_array_equal(found.uniformity, alone.uniformity)
        assert found.pairs == alone.pairs


def test_embeddings_are_read_from_a_file_in_parts(tmp_path):
    x = points(300)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert align_uniform(mapped, tile=8).uniformity == align_uniform(x, tile=8).uniformity


def test_what_does_not_fit_is_refused():
    x = points(5)
    with pytest.raises(ValueError, match=r"shapes \(5, 5\) and \(4, 5\)"):
        align_uniform(x, x[:4])
    with pytest.raises(ValueError, match="3 ids of 5"):
        align_uniform(x, ids=np.arange(3))
    with pytest.raises(ValueError, match="above 0"):
        align_uniform(x, t=[2.0, 0.0])


def test_symmetric_tiles_are_made_once(monkeypatch):
    """Of a set with itself the tiles on and above the diagonal, of two views all of them."""
    made = []
    original = uniformity._reduce

    def counted(x, y, order, *rest):
        made.append(len(order))
        return original(x, y, order, *rest)

    monkeypatch.setattr(uniformity, "_reduce", counted)
    x = points(200)
    align_uniform(x, tile=8)
    assert sum(made) == 25 * 26 / 2
    made.clear()
    align_uniform(x, x, tile=8)
    assert sum(made) == 25 * 25


@pytest.mark.parametrize(("side", "row"), [("x", 0), ("x", 61), ("y", 3)])
def test_vectors_that_are_no_unit_vectors_are_refused(side, row):
    sides = {"x": points(70), "y": points(70, seed=1)}
    sides[side] = sides[side].copy()
    sides[side][row] *= 1.5
    with pytest.raises(ValueError, match=rf"row {row} has length 1\.5: divide each row"):
        align_uniform(**sides)
    sides[side][row] /= 1.5 * 1.004  # what rounding to bfloat16 may leave
    align_uniform(**sides)
