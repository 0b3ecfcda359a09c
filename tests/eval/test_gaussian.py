import math

import numpy as np
import pytest
from scipy import integrate, linalg, stats

from simjax.errors import SimjaxError
from simjax.eval.gaussian import Gaussian, bhattacharyya, kl_divergence, wasserstein2
from simjax.eval.moments import Moments

DISTANCES = (kl_divergence, bhattacharyya, wasserstein2)


def sample(rng, width, count=60):
    return rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) + rng.normal(
        size=width
    )


def pair(seed, width):
    rng = np.random.default_rng(seed)
    return [Gaussian.fit(Moments.of(sample(rng, width))) for _ in range(2)]


def by_scipy(p, q):
    """The three distances as they are written down, for full-rank covariances."""
    d, sp, sq = p.mean - q.mean, p.covariance, q.covariance
    middle = (sp + sq) / 2

    def log_det(s):
        return 2 * np.log(np.diag(linalg.cholesky(s))).sum()

    kl = np.trace(linalg.solve(sq, sp)) + d @ linalg.solve(sq, d) - len(d)
    kl = (kl + log_det(sq) - log_det(sp)) / 2
    root = linalg.sqrtm(sp)
    square = d @ d + np.trace(sp + sq - 2 * linalg.sqrtm(root @ sq @ root).real)
    coefficient = d @ linalg.solve(middle, d) / 8
    coefficient += (log_det(middle) - log_det(sp) / 2 - log_det(sq) / 2) / 2
    return kl, coefficient, math.sqrt(square)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("width", [1, 2, 7])
def test_formulas_by_scipy(seed, width):
    p, q = pair(seed, width)
    found = [distance(p, q) for distance in DISTANCES]
    np.testing.assert_allclose(found, by_scipy(p, q), rtol=1e-8)


def test_the_definitions_by_integration():
    p, q = Gaussian(np.array([0.3]), np.array([[0.5]])), Gaussian(np.array([-1.0]), np.eye(1) * 2)
    f, g = stats.norm(0.3, math.sqrt(0.5)), stats.norm(-1.0, math.sqrt(2.0))

    def over_the_line(function):
        return integrate.quad(function, -12, 12, epsabs=1e-12, limit=200)[0]

    kl = over_the_line(lambda x: f.pdf(x) * (f.logpdf(x) - g.logpdf(x)))
    overlap = over_the_line(lambda x: math.sqrt(f.pdf(x) * g.pdf(x)))
    transport = integrate.quad(lambda u: (f.ppf(u) - g.ppf(u)) ** 2, 0, 1, limit=200)[0]
    assert kl_divergence(p, q) == pytest.approx(kl, rel=1e-8)
    assert bhattacharyya(p, q) == pytest.approx(-math.log(overlap), rel=1e-8)
    assert wasserstein2(p, q) == pytest.approx(math.sqrt(transport), rel=1e-4)


@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_one_subspace_gives_the_distances_within_it(precision):
    rng = np.random.default_rng(5)
    x, y = sample(rng, 4), sample(rng, 4)
    small = [Gaussian.fit(Moments.of(rows)) for rows in (x, y)]
    frame, shift = linalg.qr(rng.normal(size=(9, 9)))[0][:, :4], rng.normal(size=9)
    large = [
        Gaussian.fit(Moments.of((rows @ frame.T + shift).astype(precision))) for rows in (x, y)
    ]
    assert [g.rank for g in large] == [4, 4]
    for distance in DISTANCES:
        assert distance(*large) == pytest.approx(distance(*small), rel=1e-5)


def test_different_subspaces_share_nothing_but_have_a_wasserstein_distance():
    flat = Gaussian(np.zeros(3), np.diag([4.0, 1.0, 0.0]))
    others = [
        Gaussian(np.zeros(3), np.diag([4.0, 0.0, 1.0])),  # turned
        Gaussian(np.array([0.0, 0.0, 1e-3]), flat.covariance),  # parallel
        Gaussian(np.zeros(3), np.diag([4.0, 1.0, 1e-6])),  # of higher rank
    ]
    for other in others:
        for distance in (kl_divergence, bhattacharyya):
            assert distance(flat, other) == distance(other, flat) == math.inf
    assert [wasserstein2(flat, other) for other in others] == pytest.approx(
        [math.sqrt(2), 1e-3, 1e-3]
    )


def test_few_rows_in_many_dimensions():
    rng = np.random.default_rng(6)
    moments = [Moments.of(rng.normal(size=(5, 20))) for _ in range(2)]
    p, q = (Gaussian.fit(m) for m in moments)
    assert p.rank == q.rank == 4
    assert kl_divergence(p, q) == math.inf
    d, sp, sq = p.mean - q.mean, p.covariance, q.covariance
    # The nuclear norm of what roots of the covariances make is the trace of sqrt(Sp Sq).
    values = linalg.eigvals(sp @ sq).real
    square = d @ d + np.trace(sp + sq) - 2 * np.sqrt(np.maximum(values, 0)).sum()
    assert wasserstein2(p, q) == pytest.approx(math.sqrt(square), rel=1e-6)
    p, q = (Gaussian.fit(m, shrinkage=0.1) for m in moments)
    np.testing.assert_allclose(
        [distance(p, q) for distance in DISTANCES], by_scipy(p, q), rtol=1e-8
    )


def test_nothing_is_lost_between_sets_that_are_nearly_one():
    p, q = pair(7, 30)
    for distance in DISTANCES:
        assert distance(p, p) == pytest.approx(0.0, abs=1e-12)
    step = 1e-6
    near = Gaussian(p.mean, p.covariance * (1 + step) ** 2)
    # To second order: 30 deviations that differ by the factor 1 + step.
    assert kl_divergence(near, p) == pytest.approx(30 * step**2, rel=1e-3)
    assert bhattacharyya(near, p) == pytest.approx(30 * step**2 / 4, rel=1e-3)
    trace = np.trace(p.covariance)
    assert wasserstein2(near, p) == pytest.approx(step * math.sqrt(trace), rel=1e-6)
    assert q.rank == 30


def test_rounding_of_float32_fills_no_direction():
    rng = np.random.default_rng(8)
    flat = rng.normal(size=(400, 6)) + 5
    flat -= flat.mean(axis=1, keepdims=True)  # as the output of a layer normalisation is
    turned = flat @ linalg.qr(rng.normal(size=(6, 6)))[0]
    p, q = (Gaussian.fit(Moments.of(rows.astype(np.float32) + 1e-7)) for rows in (flat, turned))
    assert p.spectrum[0][0] > 0 and p.rank == q.rank == 5
    assert kl_divergence(p, q) == math.inf
    assert kl_divergence(p, p) == pytest.approx(0.0, abs=1e-12)


def test_points_and_widths():
    point = Gaussian.fit(Moments.of(np.ones((3, 2))))
    same, other = Gaussian(np.ones(2), np.zeros((2, 2))), Gaussian(np.zeros(2), np.zeros((2, 2)))
    assert [distance(point, same) for distance in DISTANCES] == [0.0, 0.0, 0.0]
    assert [distance(point, other) for distance in DISTANCES] == [
        *(math.inf, math.inf),
        pytest.approx(math.sqrt(2)),
    ]
    for distance in DISTANCES:
        with pytest.raises(SimjaxError, match="widths 2 and 3"):
            distance(point, Gaussian(np.zeros(3), np.eye(3)))
    with pytest.raises(SimjaxError, match="1 embeddings have no covariance"):
        Gaussian.fit(Moments.of(np.ones((1, 2))))
    with pytest.raises(SimjaxError, match="without classes"):
        Gaussian.fit(Moments.of(np.ones((3, 2)), np.array([0, 1, 1]), 2))
