"""Dense layers whose products stay on the fast path of low-precision hardware, both ways."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def settle(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """`x`, kept in memory in the order of its dimensions.

    The CPU's fast bfloat16 products take only operands that lie so, and the compiler would
    otherwise fold a transposition into the product and leave the fast path (float32 products
    take any order). Passing through one dimension pins the order; elsewhere this does nothing.
    """
    if x.dtype == jnp.float32:
        return x
    return jax.lax.platform_dependent(
        x,
        cpu=lambda x: jax.lax.optimization_barrier(x.reshape(-1)).reshape(x.shape),
        default=lambda x: x,
    )


@jax.custom_vjp
def rounded_product(
    x: Float[Array, "M I"], kernel: Float[Array, "I O"], bias: Float[Array, "O"]
) -> Float[Array, "M O"]:
    """`x @ kernel + bias`, summed in float32 and rounded to the dtype of `x`.

    JAX's own transpose of a product with a float32 result hands a float32 cotangent to both
    products of the backward pass, which takes them off the bfloat16 units. Here the cotangent
    has the dtype of `x`, so all three products have operands of that dtype; the gradients of
    `kernel` and `bias` are summed in float32 and never rounded.
    """
    return _product_forward(x, kernel, bias)[0]


def _product_forward(
    x: Array, kernel: Array, bias: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    product = jnp.dot(x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)
    return (product + bias.astype(jnp.float32)).astype(x.dtype), (x, kernel, bias)


def _product_backward(
    residuals: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array]:
    x, kernel, bias = residuals
    to_x = jnp.dot(cotangent, settle(kernel.astype(x.dtype).T), preferred_element_type=jnp.float32)
    to_kernel = jnp.dot(settle(x.T), cotangent, preferred_element_type=jnp.float32)
    to_bias = jnp.sum(cotangent, axis=0, dtype=jnp.float32)
    return to_x.astype(x.dtype), to_kernel.astype(kernel.dtype), to_bias.astype(bias.dtype)


rounded_product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def gelu(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """`x Phi(x)` with the normal distribution function (Hendrycks & Gimpel, arXiv 1606.08415).

    Exact and computed in float32. Its gradient keeps `x` alone, where differentiating through
    the formula keeps three arrays of that size.
    """
    return _gelu_forward(x)[0]


def _normal_distribution(x: Array) -> Array:
    return 0.5 * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    wide = x.astype(jnp.float32)
    return (wide * _normal_distribution(wide)).astype(x.dtype), x


def _gelu_backward(x: Array, cotangent: Array) -> tuple[Array]:
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * jnp.square(wide)) * (1.0 / math.sqrt(2.0 * math.pi))
    slope = _normal_distribution(wide) + wide * density
    return ((slope * cotangent.astype(jnp.float32)).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


class Dense(nnx.Module):
    """`x @ kernel + bias` with float32 parameters, computed in the dtype of `x`."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        stddev: float,
        rngs: nnx.Rngs,
        use_bias: bool = True,
    ) -> None:
        normal = jax.random.normal(rngs.params(), (in_features, out_features), jnp.float32)
        self.kernel = nnx.Param(stddev * normal)
        self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32)) if use_bias else None

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        """Apply the layer over the last axis."""
        kernel = self.kernel[...]
        bias = jnp.zeros((), jnp.float32) if self.bias is None else self.bias[...]
        flat = x.reshape(-1, x.shape[-1])
        y = flat @ kernel + bias if x.dtype == jnp.float32 else rounded_product(flat, kernel, bias)
        return y.reshape(*x.shape[:-1], kernel.shape[-1])


class LayerNorm(nnx.Module):
    """Layer normalisation (Ba et al. 2016, arXiv 1607.06450), in float32 whatever comes in."""

    def __init__(self, features: int, *, epsilon: float) -> None:
        self.scale = nnx.Param(jnp.ones((features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features,), jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*B D"], dtype: DTypeLike) -> Float[Array, "*B D"]:
        """Normalise over the last axis and return `dtype`."""
        x = x.astype(jnp.float32)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        normal = centred * jax.lax.rsqrt(variance + self.epsilon)
        return (normal * self.scale[...] + self.bias[...]).astype(dtype)
