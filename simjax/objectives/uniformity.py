"""The uniformity that training logs, from the loss's own tiles."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simjax.mesh import global_sum
from simjax.objectives.objective import Metrics
from simjax.objectives.sides import Sides
from simjax.ops import PairStats, Reduction
from simjax.types import NO_TEXT


@dataclass(frozen=True)
class Views:
    """How the ``V`` texts of an example are used.

    Attributes:
        positives: How many views after the first are positives; the rest are hard negatives.
        one_distribution: All views are drawn alike (dropout or augmentation of one text), which
            makes the uniformity across views an estimate of the uniformity of the set.
        group: Otherwise the uniformity of the anchors is sampled within consecutive groups of so
            many examples.
    """

    positives: int
    one_distribution: bool
    group: int


def spread_reduction(t: float) -> Reduction:
    """The log-sum-exp that uniformity comes from: |x - y|^2 is 2 - 2 x . y on the sphere."""
    return Reduction(2 * t, over="spread", max_scale=2 * t, counted=True, gradient=False)


def uniformity(sides: Sides, stats: PairStats, views: Views, t: float) -> Metrics:
    """Log mean exp(-t |x - y|^2) over pairs of distinct texts (Wang & Isola 2020), no gradient.

    Between anchors and positives it comes with the loss's own tiles. That is the uniformity of a
    set only where both are drawn alike; elsewhere a sample of the anchors gives theirs.

    Args:
        sides: Of this device's examples.
        stats: Of the loss; its second reduction is `spread_reduction`.
        views: How the views are drawn.
        t: Of the Gaussian kernel.

    Returns:
        `uniformity` of the global batch, and `uniformity_cross` where the two differ.
    """
    assert stats.counts[1] is not None  # asked for
    potential = jnp.exp(stats.rows[1] - 2 * t).sum()
    across = global_sum(jax.lax.stop_gradient((potential, stats.counts[1].sum())))
    if views.one_distribution:
        return {"uniformity": _log_mean(across)}
    x = jax.lax.stop_gradient(sides.anchors)
    x = x.reshape(-1, views.group, x.shape[-1])
    text = sides.ids[:, 0].reshape(-1, views.group)
    apart = (text[:, :, None] != text[:, None, :]) & (text != NO_TEXT)[:, :, None]
    apart &= (text != NO_TEXT)[:, None, :]
    terms = jnp.exp(2 * t * (jnp.einsum("gid,gjd->gij", x, x, precision="highest") - 1))
    within = (jnp.where(apart, terms, 0.0).sum(), apart.sum(dtype=jnp.float32))
    return {
        "uniformity": _log_mean(global_sum(within)),
        "uniformity_cross": _log_mean(across),
    }


def _log_mean(total: tuple[Float[Array, ""], Float[Array, ""]]) -> Float[Array, ""]:
    return jnp.log(total[0] / total[1])
