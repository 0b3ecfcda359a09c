"""The flow beside NumPy, automatic differentiation and SciPy, in float64."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from simjax.errors import SimjaxError, UsageError
from simjax.postprocess.flow import FIXED, FlowConfig, random_flow
from simjax.postprocess.flow_fit import FitConfig, FlowFit, check_count
from tests.postprocess.flows import in_numpy, made_flow


@pytest.fixture
def wide():
    with jax.enable_x64(True):
        yield


CASES = [(6, 6, "additive"), (7, 7, "affine"), (7, 4, "affine"), (5, 2, "additive")]


@pytest.mark.parametrize(("width", "rank", "coupling"), CASES)
def test_the_flow_is_what_it_says(wide, width, rank, coupling):
    flow = made_flow(width, rank, coupling)
    x = np.random.default_rng(1).normal(size=(9, width))
    z, log_determinant = jax.jit(lambda x: flow.forward(x))(x)
    expected, expected_log = in_numpy(flow, x)
    assert z.dtype == jnp.float64 and z.shape == (9, rank)
    np.testing.assert_allclose(z, expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(log_determinant, expected_log, rtol=1e-11)
    # Any number of leading dimensions.
    np.testing.assert_allclose(flow.forward(x.reshape(3, 3, -1))[0].reshape(9, -1), z, rtol=1e-11)


@pytest.mark.parametrize(("width", "rank", "coupling"), CASES)
def test_the_inverse_is_exact(wide, width, rank, coupling):
    flow = made_flow(width, rank, coupling)
    z = np.random.default_rng(1).normal(size=(9, rank))
    x = jax.jit(flow.inverse)(z)
    assert np.abs(x).max() > 1
    np.testing.assert_allclose(flow.forward(x)[0], z, rtol=1e-11, atol=1e-11)
    # What is beside the axes is lost, and nothing else.
    other = np.random.default_rng(2).normal(size=(9, width))
    mean, axes = (np.asarray(flow.tensors[name]) for name in ("mean", "axes"))
    kept = (other - mean) @ axes @ axes.T + mean
    np.testing.assert_allclose(flow.inverse(flow.forward(other)[0]), kept, rtol=1e-10, atol=1e-10)
    assert (np.abs(kept - other).max() < 1e-10) == (rank == width)


@pytest.mark.parametrize(("width", "rank", "coupling"), CASES)
def test_the_log_determinant_is_that_of_the_jacobian(wide, width, rank, coupling):
    flow = made_flow(width, rank, coupling)
    x = np.random.default_rng(1).normal(size=(4, width))
    # Of the map from coordinates along the axes.
    axes, mean = flow.tensors["axes"], flow.tensors["mean"]
    jacobian = jax.vmap(jax.jacobian(lambda c: flow.forward(axes @ c + mean)[0]))
    _, expected = np.linalg.slogdet(np.asarray(jacobian((x - mean) @ axes)))
    found = np.asarray(flow.forward(x)[1])
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert np.ptp(found) > 0.1 or coupling == "additive"
    z = np.asarray(flow.forward(x)[0])
    density = stats.norm.logpdf(z).sum(axis=1) + expected
    np.testing.assert_allclose(flow.log_likelihood(x), density, rtol=1e-9)


def mixed(n, width, seed=0):
    """Far from 0, correlated, and constant along one direction."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width - 1)) @ rng.normal(size=(width - 1, width)) + 5
    return x.astype(np.float32)


def test_actnorm_starts_from_the_data(wide):
    x = mixed(500, 6).astype(np.float64)
    mean, cov = x.mean(axis=0), np.cov(x.T, bias=True)
    _, axes = np.linalg.eigh(cov)
    flow = random_flow(FlowConfig(6, 5, 3, 4, "affine"), mean, axes[:, :0:-1], x, seed=1)
    z = np.asarray(flow.forward(x)[0])
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(z.std(axis=0), 1, rtol=1e-9)
    # So it begins as the normal distribution with the data's mean and covariance.
    expected = stats.multivariate_normal(mean, cov, allow_singular=True).logpdf(x)
    np.testing.assert_allclose(flow.log_likelihood(x), expected, rtol=1e-6)


def bent(n, seed=0):
    """Vectors on which a normal distribution is wrong: the third dimension follows the first."""
    x = np.random.default_rng(seed).normal(size=(n, 4))
    x[:, 2] = 0.1 * x[:, 2] + x[:, 0] ** 2
    x[:, 3] = x[:, :3].sum(axis=1)  # no dimension of its own
    return x.astype(np.float32)


def fitted(x, config, stops=()):
    """The likelihoods before and after, and the state; at each stop all is made anew."""
    fit = FlowFit(x, config)
    state = fit.start()
    before = fit.log_likelihood(state["flow"])
    for number in range(fit.steps):
        if number in stops:
            saved = jax.tree.map(np.asarray, state)
            assert jax.tree.map(lambda a: (a.shape, a.dtype), saved) == jax.tree.map(
                lambda a: (a.shape, a.dtype), fit.abstract_state()
            )
            fit, state = FlowFit(x, config), jax.tree.map(jnp.asarray, saved)
        state = fit.step(state, number)
    return before, fit.log_likelihood(state["flow"]), state


SMALL = FitConfig(depth=3, hidden=16, coupling="affine", epochs=30, batch_size=128)


def test_a_fit_raises_the_held_out_likelihood_towards_the_truth():
    x = bent(3000)
    before, after, _ = fitted(x, replace(SMALL, learning_rate=1e-2))
    # The density of what `bent` draws along the orthonormal axes of its three dimensions: the map
    # from the three to the four stretches volumes by sqrt(det(J^T J)) = 2.
    density = stats.norm.logpdf(np.random.default_rng(0).normal(size=(3000, 4))[:, :3])
    truth = density.sum(axis=1).mean() - np.log(0.1) - np.log(2)
    variances = np.linalg.eigvalsh(np.cov(x.T))[1:]
    normal = -0.5 * np.log(2 * np.pi * np.e * variances).sum()
    # The mean of 150 rows strays by a tenth.
    assert before == pytest.approx(normal, abs=0.4)
    assert truth - before > 2
    assert after > before + 0.6 * (truth - before)
    assert after < truth + 0.3


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


@pytest.mark.slow
def test_a_fit_follows_from_its_seed_and_goes_on_to_the_same_bits():
    x = bent(300)
    config = replace(SMALL, epochs=3)
    _, _, state = fitted(x, config)
    assert same(state, fitted(x, config, stops=(1, 3, 4))[2])
    other = fitted(x, replace(config, seed=1))[2]
    assert not np.array_equal(state["flow"]["permutation"], other["flow"]["permutation"])
    fixed = {name: FlowFit(x, config).start()["flow"][name] for name in FIXED}
    assert same(fixed, {name: state["flow"][name] for name in FIXED})


def test_vectors_of_too_few_directions():
    # 5 % of 126, 6, are held out.
    with pytest.raises(SimjaxError, match="at least 127 different sentences and there are 126"):
        FlowFit(np.zeros((126, 120), np.float32), FitConfig())
    check_count(127, 120, FitConfig())
    with pytest.raises(SimjaxError, match="vary in 0 of 4 dimensions: give more different"):
        FlowFit(np.ones((50, 4), np.float32), FitConfig())
    x = mixed(50, 6)
    assert FlowFit(x, FitConfig()).shape.rank == 5
    x[:9, 2] = np.nan
    with pytest.raises(SimjaxError, match="not finite"):
        FlowFit(x, FitConfig())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epochs": 0}, "epochs 0: must be at least 1"),
        ({"learning_rate": float("nan")}, "learning_rate nan: must be above 0"),
        ({"held_out": 1.0}, "held_out 1.0: must be between"),
        ({"seed": -1}, "seed -1: must be"),
        ({"depth": 0}, "flow depth 0: must be at least 1"),
        ({"coupling": "both"}, "flow coupling 'both': choose additive or affine"),
    ],
)
def test_fits_that_cannot_be(change, says):
    with pytest.raises(UsageError, match=says):
        FlowFit(mixed(50, 6), FitConfig(**change))
