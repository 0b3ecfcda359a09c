"""The next token, drawn from a distribution whose tail is cut off."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from simjax.errors import UsageError


@dataclass(frozen=True)
class SamplingConfig:
    """How texts are drawn.

    Attributes:
        count: Texts that are drawn for a given one, side by side.
        top_k: Only the so many likeliest tokens are drawn from (Fan et al. 2018, arXiv
            1805.04833); None takes all.
        top_p: Only the likeliest tokens that together have this probability (nucleus sampling,
            Holtzman et al. 2019, arXiv 1904.09751); of those that `top_k` leaves. 1 takes all.
        temperature: What logits are divided by: below 1 likelier tokens get likelier.
        seed: Of the draws.
        max_length: Most tokens of a text that is written, its end included; None takes as many as
            the model was trained on.
    """

    count: int = 10
    top_k: int | None = None
    top_p: float = 0.95
    temperature: float = 1.0
    seed: int = 0
    max_length: int | None = None

    def __post_init__(self) -> None:
        for name in ("count", "top_k", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}: give at least 1")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p}: give a number above 0, up to 1")
        if not 0 < self.temperature < math.inf:
            raise UsageError(f"temperature is {self.temperature}: give a number above 0")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed is {self.seed}: give a whole number from 0 to {2**32 - 1:,}")


def truncated(
    logits: Float[Array, "N V"],
    temperature: Float[Array, ""] | float,
    top_k: Int[Array, ""] | int,
    top_p: Float[Array, ""] | float,
) -> tuple[Float[Array, "N V"], Int[Array, "N V"]]:
    """Logits over the temperature, likeliest tokens first and -inf where they are cut off.

    A token is kept if it is among the `top_k` likeliest, and if those before it have less than
    `top_p` of the probability of these. The likeliest one is always kept.

    Returns:
        The logits, and the token of each.
    """
    # A stable sort: of equal tokens the first ones stay.
    tokens = jnp.argsort(-logits, axis=-1, stable=True)
    ordered = jnp.take_along_axis(logits, tokens, axis=-1) / temperature
    rank = jnp.arange(logits.shape[-1])
    ordered = jnp.where(rank < top_k, ordered, -jnp.inf)
    probability = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    kept = (before < top_p) | (rank == 0)
    return jnp.where(kept, ordered, -jnp.inf), tokens


def draw(
    key: Key[Array, ""],
    logits: Float[Array, "N V"],
    temperature: Float[Array, ""] | float,
    top_k: Int[Array, ""] | int,
    top_p: Float[Array, ""] | float,
) -> Int[Array, "N"]:
    """A token for each row, from `truncated`'s distribution."""
    ordered, tokens = truncated(logits, temperature, top_k, top_p)
    chosen = jax.random.categorical(key, ordered, axis=-1)
    return jnp.take_along_axis(tokens, chosen[:, None], axis=-1)[:, 0]
