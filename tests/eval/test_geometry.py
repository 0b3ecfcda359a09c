import math

import numpy as np
import pytest

from simjax.errors import SimjaxError
from simjax.eval.geometry import effective_rank, singular_values, unit_rows


def points(count, width=5, seed=0):
    return unit_rows(np.random.default_rng(seed).normal(size=(count, width)))


def test_unit_rows_keep_zero_and_refuse_what_is_not_finite():
    rows = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0]]))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)
    with pytest.raises(SimjaxError, match="2 of 3 embeddings are not finite"):
        unit_rows(np.array([[1.0, 0], [np.nan, 0], [np.inf, 1]]))


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
