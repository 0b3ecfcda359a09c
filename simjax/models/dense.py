"""Dense layers whose products stay on the fast path of low-precision hardware, both ways."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float


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
    to_x = jnp.dot(cotangent, kernel.astype(x.dtype).T, preferred_element_type=jnp.float32)
    to_kernel = jnp.dot(x.T, cotangent, preferred_element_type=jnp.float32)
    to_bias = jnp.sum(cotangent, axis=0, dtype=jnp.float32)
    return to_x.astype(x.dtype), to_kernel.astype(kernel.dtype), to_bias.astype(bias.dtype)


rounded_product.defvjp(_product_forward, _product_backward)


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
