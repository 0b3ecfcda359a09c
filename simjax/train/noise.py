"""The gradient noise scale of a step, from what each of its micro-batches adds to the gradient.

McCandlish et al. 2018 (arXiv 1812.06162, appendix A) compare the gradients of a small and of a
large batch. For a loss that couples all examples that is wrong, since the expected gradient changes
with the number of negatives. Here every part is measured within the loss of the whole batch: the
embeddings' gradients, pulled back through the encoder for the examples of one micro-batch, are its
contribution g_i, and the contributions add up to the gradient G. With k of them

    noise = k / (k - 1) (sum |g_i|^2 - |G|^2 / k),      signal = |G|^2 - noise

estimate the trace of the covariance of G and the square of its mean, as far as contributions are
independent: exactly where negatives do not cross micro-batches (`objective.negative_group`), and
with a bias elsewhere: two examples of different micro-batches that push each other away are one
random event that is counted in both (twice too much was measured on a random encoder with few
texts). Examples are dealt to blocks by length, so that what length alone explains of their
gradients varies less between micro-batches than between random ones: that share of the noise is
left out. The batch at which noise and signal are equal, B noise / signal, is the critical batch
size; both are averaged over steps before they are divided.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simjax import mesh as meshes
from simjax.types import Params

Probe: TypeAlias = dict[str, Float[Array, ""]]
"""Zeros, whose gradients are sums of squares: of parameters that a device has whole, and of those
of which it has a part."""


def probe(params: Params) -> Probe:
    """What `tap` is given beside the parameters."""
    zero = meshes.vary(jnp.float32(0))
    parts = [leaf for leaf in jax.tree.leaves(params) if meshes.is_part(leaf)]
    return {"whole": zero} | ({"part": meshes.vary_like(zero, parts[0])} if parts else {})


def tap(hold: Callable[[Params], Params]) -> Callable[[Params, Probe], Params]:
    """A function that returns parameters as they are and measures the gradient that comes back.

    In the backward pass of a loop it sees what one turn adds. Its own result is the gradient of the
    probe, which the loop adds up like any other.

    Args:
        hold: Zeros for the gradients of what is frozen.
    """

    @jax.custom_vjp
    def through(params: Params, probe: Probe) -> Params:
        return params

    def forward(params: Params, probe: Probe) -> tuple[Params, Probe]:
        return params, probe

    def backward(probe: Probe, grads: Params) -> tuple[Params, Probe]:
        squares = dict.fromkeys(probe, jnp.float32(0))
        for leaf in jax.tree.leaves(hold(grads)):
            kind = "part" if meshes.is_part(leaf) else "whole"
            squares[kind] = squares[kind] + jnp.vdot(leaf, leaf)
        return grads, {kind: meshes.vary_like(squares[kind], probe[kind]) for kind in probe}

    through.defvjp(forward, backward)
    return through


def contributions(squares: Probe) -> Float[Array, ""]:
    """The sum of |g_i|^2 over all micro-batches of all devices, from a device's own."""
    total = squares["whole"]
    if "part" in squares:
        total = total + meshes.sum_parts(squares["part"])
    return meshes.global_sum(total)


def estimate(
    squares: Float[Array, ""], norm: Float[Array, ""], count: int
) -> dict[str, Float[Array, ""]]:
    """`gradient_noise` and `gradient_signal` of a step.

    Args:
        squares: As of `contributions`.
        norm: Of the whole gradient.
        count: How many contributions there are, at least 2.
    """
    noise = count / (count - 1) * (squares - norm**2 / count)
    return {"gradient_noise": noise, "gradient_signal": norm**2 - noise}
