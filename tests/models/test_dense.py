import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from simjax.models.dense import Dense, gelu, layer_norm, rounded_product

pytestmark = pytest.mark.usefixtures("strict_promotion")


def peer_gradients(function, *arrays):
    """Value and gradients of the sum of squares of a PyTorch function, in float64."""
    tensors = [torch.tensor(np.asarray(a, np.float64), requires_grad=True) for a in arrays]
    value = function(*tensors)
    value.square().sum().backward()
    return value.detach().numpy(), [t.grad.numpy() for t in tensors]


def our_gradients(function, *arrays):
    def loss(*arrays):
        return jnp.sum(jnp.square(function(*arrays).astype(jnp.float32)))

    return function(*arrays), jax.grad(loss, argnums=tuple(range(len(arrays))))(*arrays)


def assert_close(found, expected, tolerance):
    found, scale = np.asarray(found, np.float64), np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=tolerance * scale, rtol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 1e-2)])
def test_gelu(dtype, tolerance):
    x = jnp.linspace(-8.0, 8.0, 801).astype(dtype)
    value, (gradient,) = our_gradients(gelu, x)
    expected, (slope,) = peer_gradients(torch.nn.functional.gelu, x.astype(jnp.float32))
    assert value.dtype == gradient.dtype == dtype
    assert_close(value, expected, tolerance)
    assert_close(gradient, slope, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-6), (jnp.bfloat16, 2e-2)])
def test_layer_norm(dtype, tolerance):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(3.0, 2.0, (6, 5, 48)), jnp.float32)
    scale, bias = (jnp.asarray(rng.normal(1.0, 0.5, 48), jnp.float32) for _ in range(2))
    value, gradients = our_gradients(
        lambda x, s, b: layer_norm(x, s, b, 1e-5, dtype), x, scale, bias
    )
    expected, peers = peer_gradients(
        lambda x, s, b: torch.nn.functional.layer_norm(x, (48,), s, b, eps=1e-5), x, scale, bias
    )
    assert value.dtype == dtype
    assert all(g.dtype == jnp.float32 for g in gradients)
    for found, peer in zip((value, *gradients), (expected, *peers), strict=True):
        assert_close(found, peer, tolerance)


def test_rounded_product_sums_in_float32():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(512, 64)), jnp.bfloat16)
    kernel = jnp.asarray(rng.normal(size=(64, 96)), jnp.float32)
    bias = jnp.asarray(rng.normal(size=96), jnp.float32)
    value, pull = jax.vjp(rounded_product, x, kernel, bias)
    cotangent = jnp.asarray(rng.normal(size=value.shape), jnp.bfloat16)
    to_x, to_kernel, to_bias = pull(cotangent)

    x64, g64 = np.asarray(x, np.float64), np.asarray(cotangent, np.float64)
    k64 = np.asarray(kernel.astype(jnp.bfloat16), np.float64)
    # One rounding to 8 bits in what is bfloat16, none in what is float32.
    assert_close(value, x64 @ k64 + np.asarray(bias, np.float64), 2**-8)
    assert_close(to_x, g64 @ k64.T, 2**-8)
    assert_close(to_kernel, x64.T @ g64, 1e-6)
    assert_close(to_bias, g64.sum(0), 1e-6)
    assert [a.dtype for a in (value, to_x, to_kernel, to_bias)] == [
        jnp.bfloat16,
        jnp.bfloat16,
        jnp.float32,
        jnp.float32,
    ]


def test_gradient_of_a_kernel_can_be_transposed():
    """The CPU has no bfloat16 product with a transposed float32 result (jax 0.10)."""
    x = jnp.ones((64, 16), jnp.bfloat16)
    kernel, bias = jnp.ones((16, 32), jnp.float32), jnp.zeros(32, jnp.float32)

    def loss(kernel):
        return jnp.sum(rounded_product(x, kernel, bias).astype(jnp.float32))

    np.testing.assert_array_equal(jax.jit(lambda k: jax.grad(loss)(k).T)(kernel), 64.0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dense_without_bias(dtype):
    dense = Dense(4, 3, stddev=1.0, rngs=nnx.Rngs(0), use_bias=False)
    x = jnp.ones((2, 5, 4), dtype)
    y = dense(x)
    assert y.shape == (2, 5, 3) and y.dtype == dtype
    kernel = np.asarray(dense.kernel[...].astype(dtype), np.float64)
    expected = np.broadcast_to(kernel.sum(0), y.shape)
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=1e-2)
