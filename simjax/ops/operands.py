"""Matrix products that keep their precision, and operands that lie as the fast ones ask for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def product(
    a: Float[Array, "..."], b: Float[Array, "..."], contract: tuple[int, int]
) -> Float[Array, "M N"]:
    """A matrix product over dimension ``contract[0]`` of ``a`` and ``contract[1]`` of ``b``.

    It accumulates in float32. float32 operands mean float32 products: no silent tf32 or bfloat16
    passes.
    """
    precision = jax.lax.Precision.HIGHEST if b.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        a,
        b,
        (((contract[0],), (contract[1],)), ((), ())),
        precision=precision,
        preferred_element_type=jnp.float32,
    )


def in_order(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """`x`, which on the CPU lies in memory in the order of its dimensions.

    The CPU compiler folds a transposition into the product that it belongs to. Passing through
    one dimension keeps the two apart.
    """
    return jax.lax.platform_dependent(
        x,
        cpu=lambda x: jax.lax.optimization_barrier(x.reshape(-1)).reshape(x.shape),
        default=lambda x: x,
    )


def settle(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """An operand of a product, in the order that the CPU's fast bfloat16 products ask for.

    They take rows by columns as they lie and nothing else; float32 products take any order.
    """
    return x if x.dtype == jnp.float32 else in_order(x)
