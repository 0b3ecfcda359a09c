"""Dense layers whose products stay on the fast path of low-precision hardware, both ways."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from simjax import mesh as meshes
from simjax.ops.operands import in_order, settle

PRODUCT = "product"
"""What the outputs of dense layers are called where a backward pass chooses what to keep."""


def put_by(x: Float[Array, "*S"]) -> Array:
    """`x` in the form in which it waits for the backward pass; `take_out` is the inverse.

    The CPU compiler widens bfloat16 arrays that a scan stacks up to float32, and leaves whole
    numbers of 16 bits alone.
    """
    return jax.lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x


def take_out(x: Array) -> Float[Array, "*S"]:
    """What `put_by` was given."""
    return jax.lax.bitcast_convert_type(x, jnp.bfloat16) if x.dtype == jnp.uint16 else x


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
    product, residuals = _wide_forward(x, kernel, bias)
    return product.astype(x.dtype), residuals


def _product_backward(
    residuals: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array]:
    x, kernel, bias = take_out(residuals[0]), residuals[1], residuals[2]
    to_x = jnp.dot(cotangent, settle(kernel.astype(x.dtype).T), preferred_element_type=jnp.float32)
    to_kernel = jnp.dot(settle(x.T), cotangent, preferred_element_type=jnp.float32)
    to_bias = jnp.sum(cotangent, axis=0, dtype=jnp.float32)
    # A caller that transposes this would turn the product round, which fails on the CPU (jax 0.10).
    to_kernel = in_order(to_kernel.astype(kernel.dtype))
    return to_x.astype(x.dtype), to_kernel, to_bias.astype(bias.dtype)


rounded_product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def wide_product(
    x: Float[Array, "M I"], kernel: Float[Array, "I O"], bias: Float[Array, "O"]
) -> Float[Array, "M O"]:
    """`rounded_product` before it is rounded, in float32; its backward pass is the same."""
    return _wide_forward(x, kernel, bias)[0]


def _wide_forward(x: Array, kernel: Array, bias: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    product = jnp.dot(x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)
    return product + bias.astype(jnp.float32), (put_by(x), kernel, bias)


def _wide_backward(
    residuals: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array]:
    return _product_backward(residuals, cotangent.astype(take_out(residuals[0]).dtype))


wide_product.defvjp(_wide_forward, _wide_backward)


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
    return (wide * _normal_distribution(wide)).astype(x.dtype), put_by(x)


def _gelu_backward(x: Array, cotangent: Array) -> tuple[Array]:
    x = take_out(x)
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * jnp.square(wide)) * (1.0 / math.sqrt(2.0 * math.pi))
    slope = _normal_distribution(wide) + wide * density
    return ((slope * cotangent.astype(jnp.float32)).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


class Dense(nnx.Module):
    """`x @ kernel + bias` with float32 parameters, computed in the dtype of `x`.

    Several layers of one input may be one, their outputs side by side: with `parts` of them the
    kernel is [I, parts, O / parts]. Inside of a `shard_map` a device may hold a part of every
    output (each layer's own, so that what it computes from them is whole), or of the rows.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        stddev: float,
        rngs: nnx.Rngs,
        use_bias: bool = True,
        parts: int = 1,
    ) -> None:
        out = (out_features,) if parts == 1 else (parts, out_features // parts)
        normal = jax.random.normal(rngs.params(), (in_features, out_features), jnp.float32)
        self.kernel = nnx.Param(stddev * normal.reshape(in_features, *out))
        self.bias = nnx.Param(jnp.zeros(out, jnp.float32)) if use_bias else None

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        """Apply the layer over the last axis."""
        kernel = self.kernel[...].reshape(self.kernel.shape[0], -1)
        zeros = jnp.zeros(kernel.shape[1], jnp.float32)
        bias = zeros if self.bias is None else self.bias[...].reshape(-1)
        # Products of parts are summed over devices, and what all of them have is added once.
        partial_sum = meshes.is_part(x)
        inside = zeros if partial_sum else bias
        flat = x.reshape(-1, x.shape[-1])
        if meshes.is_part(kernel) and not partial_sum:
            # In float32, since the gradients of what devices share are summed here.
            flat = meshes.vary_like(flat.astype(jnp.float32), kernel).astype(x.dtype)
        if x.dtype == jnp.float32:
            y = flat @ kernel + inside
        else:
            y = rounded_product(flat, kernel, meshes.vary_like(inside, kernel))
        if partial_sum:
            y = (meshes.sum_parts(y.astype(jnp.float32)) + bias).astype(x.dtype)
        return checkpoint_name(y.reshape(*x.shape[:-1], kernel.shape[-1]), PRODUCT)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def layer_norm(
    x: Float[Array, "*B D"],
    scale: Float[Array, "D"],
    bias: Float[Array, "D"],
    epsilon: float,
    dtype: DTypeLike,
) -> Float[Array, "*B D"]:
    """`(x - mean) / sqrt(variance + epsilon) * scale + bias` (Ba et al., arXiv 1607.06450).

    Computed in float32 from float32 and rounded to `dtype`. The backward pass is left one array
    of the size of `x`.
    """
    return _layer_norm_forward(x, scale, bias, epsilon, dtype)[0]


def _layer_norm_forward(
    x: Array, scale: Array, bias: Array, epsilon: float, dtype: DTypeLike
) -> tuple[Array, tuple[Array, Array, Array]]:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + epsilon)
    normal = centred * inverse
    y = (normal * scale + bias).astype(dtype)
    return y, (put_by(normal.astype(dtype)), inverse, scale)


def _layer_norm_backward(
    epsilon: float, dtype: DTypeLike, residuals: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array]:
    normal = take_out(residuals[0]).astype(jnp.float32)
    inverse, scale = residuals[1:]
    wide = cotangent.astype(jnp.float32)
    rows = tuple(range(wide.ndim - 1))
    to_normal = wide * scale
    mean = jnp.mean(to_normal, axis=-1, keepdims=True)
    along = jnp.mean(to_normal * normal, axis=-1, keepdims=True)
    to_x = inverse * (to_normal - mean - normal * along)
    return to_x, jnp.sum(wide * normal, axis=rows), jnp.sum(wide, axis=rows)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class LayerNorm(nnx.Module):
    """`layer_norm` with its parameters."""

    def __init__(self, features: int, *, epsilon: float, use_bias: bool = True) -> None:
        self.scale = nnx.Param(jnp.ones((features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features,), jnp.float32)) if use_bias else None
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*B D"], dtype: DTypeLike) -> Float[Array, "*B D"]:
        """Normalise float32 over the last axis and return `dtype`."""
        scale = self.scale[...]
        bias = jnp.zeros_like(scale) if self.bias is None else self.bias[...]
        return layer_norm(x, scale, bias, self.epsilon, jnp.dtype(dtype))
