"""Vectors around a mean direction, against SciPy's distribution and integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import gammaln, ive
from scipy.stats import kstest, vonmises_fisher

from simjax.models.von_mises_fisher import angles, sample

pytestmark = pytest.mark.usefixtures("strict_promotion")

SHAPES = [(16, 32.0), (2, 0.5), (3, 4.0), (64, 500.0), (16, 0.01), (5, 9000.0)]


def direction(size):
    mean = np.random.default_rng(0).normal(size=size)
    return mean / np.linalg.norm(mean)


def drawn(size, kappa, count=100_000):
    mean = direction(size)
    means = jnp.broadcast_to(jnp.asarray(mean, jnp.float32), (count, size))
    found = sample(jax.random.key(1), means, angles(size, kappa).quantiles)
    return mean, np.asarray(found, np.float64)


@pytest.mark.parametrize(("size", "kappa"), SHAPES)
def test_quantiles_of_the_angle_are_those_of_its_density(size, kappa):
    def density(angle):
        return np.exp(kappa * (np.cos(angle) - 1)) * np.sin(angle) ** (size - 2)

    quantiles = angles(size, kappa).quantiles
    assert quantiles[0] == 0 and (np.diff(quantiles) >= 0).all()
    # Where nearly all of the density is, so that an adaptive rule finds it.
    middle = quantiles[len(quantiles) // 2]
    whole = sum(
        quad(density, *part, epsabs=0, limit=200)[0]
        for part in ((0, middle), (middle, min(np.pi, 6 * middle)), (min(np.pi, 6 * middle), np.pi))
    )
    for number in (400, 1500, 2048, 3000, 3900):
        share = (1 - np.cos(np.pi * number / (len(quantiles) - 1))) / 2
        found = quad(density, 0, quantiles[number], epsabs=0, limit=200)[0] / whole
        assert found == pytest.approx(share, abs=2e-5)


@pytest.mark.parametrize(("size", "kappa"), [*SHAPES, (1024, 1e4)])
def test_the_divergence_from_the_uniform_distribution_is_scipy_s(size, kappa):
    area = np.log(2) + size / 2 * np.log(np.pi) - gammaln(size / 2)
    order = size / 2 - 1
    log_constant = order * np.log(kappa) - size / 2 * np.log(2 * np.pi)
    log_constant -= np.log(ive(order, kappa)) + kappa
    expected = log_constant + kappa * ive(order + 1, kappa) / ive(order, kappa) + area
    assert angles(size, kappa).divergence == pytest.approx(expected, rel=1e-5, abs=1e-8)
    assert np.isfinite(angles(size, kappa).quantiles).all()
    entropy = vonmises_fisher(direction(size), kappa).entropy()
    assert angles(size, kappa).divergence == pytest.approx(area - entropy, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize(("size", "kappa"), SHAPES[:4])
def test_cosines_are_distributed_as_scipy_s(size, kappa):
    mean, found = drawn(size, kappa)
    theirs = vonmises_fisher(mean, kappa).rvs(100_000, random_state=2) @ mean
    # Two samples of one distribution are this far apart once in a thousand.
    assert kstest(found @ mean, theirs).statistic < 1.95 * np.sqrt(2 / 100_000)


@pytest.mark.parametrize(("size", "kappa"), SHAPES[:4])
def test_first_and_second_moments(size, kappa):
    mean, found = drawn(size, kappa)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    length = ive(size / 2, kappa) / ive(size / 2 - 1, kappa)
    np.testing.assert_allclose(found.mean(axis=0), length * mean, atol=0.015)
    # Mardia & Jupp 2000, section 9.3: across the mean direction, and along it.
    across, along = length / kappa, 1 - length**2 - (size - 1) * length / kappa
    expected = across * np.eye(size) + (along - across) * np.outer(mean, mean)
    np.testing.assert_allclose(np.cov(found.T), expected, atol=0.015)


def test_the_gradient_goes_through_the_mean_direction():
    mean = jnp.asarray(direction(5), jnp.float32)
    table = angles(5, 20.0).quantiles

    def value(mean):
        return jnp.sum(sample(jax.random.key(3), mean[None], table)[0] * jnp.arange(5.0))

    step = 1e-2
    found = jax.grad(value)(mean)
    for axis in range(5):
        move = step * jnp.eye(5)[axis]
        expected = (value(mean + move) - value(mean - move)) / (2 * step)
        np.testing.assert_allclose(found[axis], expected, atol=2e-2)
