"""Log-sum-exp over all pairs of scores that stand in the wrong order: by sorting, not by pairs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simjax.mesh import axes_of
from simjax.ops import sharded


@jax.custom_vjp
def ranking_loss(scores: Float[Array, "n"], gold: Float[Array, "n"]) -> Float[Array, ""]:
    """log(1 + sum of exp(s_j - s_i) over pairs with gold_i > gold_j), in O(B log B).

    With the scores sorted by gold, the sum over j of one i is an exclusive cumulative sum, whose
    logarithm is A_i; ties are left out by starting before one's own group. The loss is
    softplus(logsumexp_i(A_i - s_i)). CoSENT (Su 2022, kexue.fm 8847).

    Inside a `jax.shard_map` over whose axes the arguments are split, the pairs are those of all
    devices' scores, which are gathered: B numbers, never pairs.

    Args:
        scores: Of this device, float32.
        gold: What the order goes by.

    Returns:
        This device's equal part of the loss: the sum of the parts is the loss.
    """
    return _forward(scores, gold)[0]


def _forward(
    scores: Float[Array, "n"], gold: Float[Array, "n"]
) -> tuple[Float[Array, ""], Float[Array, "n"]]:
    shards = sharded.num_shards(scores)
    every, golds = sharded.gather((scores, gold), scores)
    order = jnp.argsort(golds)
    s, g = every[order], golds[order]
    count = s.shape[0]
    places = jnp.arange(count)
    new = jnp.concatenate([jnp.ones(1, bool), g[1:] != g[:-1]])
    first = jax.lax.cummax(jnp.where(new, places, 0))
    last = jnp.concatenate([new[1:], jnp.ones(1, bool)])
    after = jax.lax.cummin(jnp.where(last, places + 1, count), reverse=True)
    # One more place on either side, for the groups that have nothing below or above them.
    nothing = jnp.full(1, -jnp.inf, s.dtype)
    below = jnp.concatenate([nothing, jax.lax.cumlogsumexp(s)])[first]
    above = jnp.concatenate([jax.lax.cumlogsumexp(-s, reverse=True), nothing])[after]
    total = jax.nn.logsumexp(below - s)
    loss = jnp.logaddexp(total, 0.0)
    slope = jnp.exp(s + above - loss) - jnp.exp(below - s - loss)
    slopes = jnp.zeros_like(every).at[order].set(slope)
    return loss / shards, _own(slopes, scores)


def _own(every: Float[Array, "B"], like: Float[Array, "n"]) -> Float[Array, "n"]:
    """This device's part of what was gathered."""
    axes = axes_of(like)
    if not axes:
        return every
    start = jax.lax.axis_index(axes) * like.shape[0]
    return jax.lax.dynamic_slice_in_dim(every, start, like.shape[0])


def _backward(
    slopes: Float[Array, "n"], cotangent: Float[Array, ""]
) -> tuple[Float[Array, "n"], None]:
    # Every device has its part of the loss, and all parts depend on these scores alike.
    shards = sharded.num_shards(slopes)
    total = jax.lax.psum(cotangent, axes_of(cotangent)) if axes_of(cotangent) else cotangent
    return slopes * total / shards, None


ranking_loss.defvjp(_forward, _backward)
