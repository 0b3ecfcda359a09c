import itertools
import math

import numpy as np
import pytest

from simjax.errors import SimjaxError
from simjax.eval.geometry import (
    alignment,
    effective_rank,
    singular_values,
    uniformity,
    unit_rows,
)


def points(count, width=5, seed=0):
    return unit_rows(np.random.default_rng(seed).normal(size=(count, width)))


def test_unit_rows_keep_zero_and_refuse_what_is_not_finite():
    rows = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0]]))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)
    with pytest.raises(SimjaxError, match="2 of 3 embeddings are not finite"):
        unit_rows(np.array([[1.0, 0], [np.nan, 0], [np.inf, 1]]))


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_alignment_is_the_mean_distance_to_a_power(alpha):
    x = points(9)
    pairs = np.array([[0, 1], [2, 3], [4, 4], [8, 0]])
    expected = np.mean([math.dist(x[i], x[j]) ** alpha for i, j in pairs])
    assert alignment(x, pairs, alpha) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("tile", [1, 4, 7, 23, 100])
@pytest.mark.parametrize("t", [0.5, 2.0])
def test_uniformity_is_over_all_pairs_once_whatever_the_tile(tile, t):
    x = points(23)
    kernel = [math.exp(-t * math.dist(a, b) ** 2) for a, b in itertools.combinations(x, 2)]
    expected = math.log(sum(kernel) / len(kernel))
    assert uniformity(x, t, tile) == pytest.approx(expected, rel=1e-5)


def test_uniformity_at_its_extremes():
    same = np.tile(points(1), (50, 1))
    assert uniformity(same) == pytest.approx(0.0, abs=1e-6)
    opposite = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)
    assert uniformity(opposite) == pytest.approx(-8.0)
    assert uniformity(opposite, t=1e4) == pytest.approx(-4e4)
    with pytest.raises(SimjaxError, match="at least 2"):
        uniformity(opposite[:1])


def test_singular_values_and_effective_rank():
    x = points(40, 6)
    values = singular_values(x)
    expected = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(values, expected, rtol=1e-9)
    share = expected / expected.sum()
    assert effective_rank(values) == pytest.approx(math.exp(-sum(share * np.log(share))))


def test_effective_rank_counts_directions():
    assert effective_rank(singular_values(np.eye(7, dtype=np.float32))) == pytest.approx(7)
    line = np.tile(points(1, 7), (5, 1))
    assert effective_rank(singular_values(line)) == pytest.approx(1, abs=1e-3)
    assert effective_rank(np.zeros(3)) == 0.0
