import math

import numpy as np
import pytest
from scipy import linalg

from simjax.errors import SimjaxError
from simjax.eval import comparison
from simjax.eval.comparison import NAMES, compare, compare_tasks
from simjax.eval.gaussian import Gaussian, bhattacharyya, kl_divergence, wasserstein2


@pytest.fixture
def sets():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(50, 4)) + 3
    return first, (first @ rng.normal(size=(4, 4)) + rng.normal(size=(50, 4)))


def test_figures_are_those_of_the_sets_as_gaussians(sets, monkeypatch):
    monkeypatch.setattr(comparison, "ROWS", 9)
    found = compare(*sets)
    assert tuple(found) == NAMES
    p, q = (Gaussian(rows.mean(0), np.cov(rows.T)) for rows in sets)
    expected = (wasserstein2(p, q), bhattacharyya(p, q), kl_divergence(p, q), kl_divergence(q, p))
    assert [found[name] for name in NAMES[1:]] == pytest.approx(expected, rel=1e-9)
    shrunk = compare(*sets, shrinkage=0.5)
    assert shrunk["cka"] == found["cka"] and shrunk["kl"] < found["kl"]


def test_cka_is_that_of_centred_gram_matrices(sets):
    first, second = sets
    second = second[:, :3]
    centre = np.eye(50) - 1 / 50
    grams = [centre @ rows @ rows.T @ centre for rows in (first, second)]
    expected = np.sum(grams[0] * grams[1]) / (linalg.norm(grams[0]) * linalg.norm(grams[1]))
    assert compare(first, second) == {"cka": pytest.approx(expected, rel=1e-10)}
    turned = first @ linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0] * 1e-20
    found = compare(first, turned)
    assert found["cka"] == pytest.approx(1.0, abs=1e-10)
    assert found["wasserstein2"] > 1
    assert math.isnan(compare(first, np.ones((50, 2)))["cka"])


def test_tasks_and_what_cannot_be_compared(sets):
    first, second = sets
    found = compare_tasks({"a": first, "one": first[:1]}, {"a": second, "one": second[:1]})
    assert list(found) == [f"a/{name}" for name in NAMES]
    with pytest.raises(SimjaxError, match="50 and 49 embeddings"):
        compare(first, second[1:])
    with pytest.raises(SimjaxError, match="too few"):
        compare(first[:1], second[:1])
    first[3] = np.nan
    with pytest.raises(SimjaxError, match="a: 1 of 50 embeddings are not finite"):
        compare_tasks({"a": first}, {"a": second})
