"""Latent variables in the last layers of an encoder, which a text is written again from (UniVAE).

Before each of the last k layers, the state of the text's first token is projected to a few
dimensions, a latent is drawn around what comes out, and its projection back takes the state's place
(Su 2021, kexue.fm 8475; github.com/bojone/univae). What the text in front and the text behind it
know of each other goes through these k latents alone: the text behind sees itself, from left to
right, and in the last k layers the one state that was written back. Each latent depends on those of
the layers below it.

The latent is a unit vector from a von Mises-Fisher distribution of a fixed kappa, whose divergence
from the uniform prior is a constant; or normal, with the divergence from the standard normal prior
as part of the loss (Kingma & Welling 2013, arXiv 1312.6114).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from simjax.errors import UsageError
from simjax.models import von_mises_fisher
from simjax.models.attention import BEHIND, FRONT, HIDDEN
from simjax.models.config import EncoderConfig
from simjax.models.dense import Dense
from simjax.models.dropout import row_keys
from simjax.models.encoder import Before, Encoder, Remat
from simjax.models.pooling import present
from simjax.models.sight import look
from simjax.types import Block, Params

LatentKind = Literal["von_mises_fisher", "gaussian"]
_SHARPEST = 10_000.0


@dataclass(frozen=True)
class LatentsConfig:
    """Latents of a text, from the state of its first token before each of the last layers.

    Attributes:
        kind: `von_mises_fisher` (unit vectors around a learned direction, as UniVAE has them) or
            `gaussian` (with a learned mean and variance, and a divergence in the loss).
        layers: How many of the last layers have one; fewer than the encoder has layers.
        size: Dimensions of each.
        kappa: Concentration of `von_mises_fisher`: the larger, the closer to the direction.
    """

    kind: LatentKind = "von_mises_fisher"
    layers: int = 4
    size: int = 16
    kappa: float = 32.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(LatentKind):
            kinds = ", ".join(get_args(LatentKind))
            raise UsageError(f"model.latents.kind is {self.kind!r}: choose from {kinds}")
        if self.layers < 1:
            raise UsageError(f"model.latents.layers is {self.layers}: give at least 1")
        least = 2 if self.kind == "von_mises_fisher" else 1
        if self.size < least:
            raise UsageError(f"model.latents.size is {self.size}: give at least {least}")
        if not 0 < self.kappa <= _SHARPEST:
            raise UsageError(
                f"model.latents.kappa is {self.kappa}: give a number above 0, up to "
                f"{_SHARPEST:,.0f}"
            )

    def check(self, encoder: EncoderConfig) -> None:
        """Refuses an encoder that has no room for them.

        Raises:
            UsageError: It has not more layers.
        """
        if self.layers >= encoder.num_layers:
            raise UsageError(
                f"model.latents.layers is {self.layers} and the encoder has {encoder.num_layers} "
                "layers: give fewer, since before the first layer the first token is the same in "
                "all texts"
            )

    @property
    def width(self) -> int:
        """Dimensions of all latents side by side."""
        return self.layers * self.size


class LatentLayer(nnx.Module):
    """A latent's way in and out of the states."""

    def __init__(self, config: LatentsConfig, encoder: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        sphere, width = config.kind == "von_mises_fisher", encoder.hidden_size
        self.inward = Dense(
            width,
            config.size if sphere else 2 * config.size,
            stddev=encoder.initializer_range,
            rngs=rngs,
        )
        # States are normalised, so that what is written back is of their size from the start.
        self.outward = Dense(
            config.size, width, stddev=1.0 if sphere else config.size**-0.5, rngs=rngs
        )


class Latents(nnx.Module):
    """The ways in and out of all of the last layers, stacked on a leading axis."""

    def __init__(self, config: LatentsConfig, encoder: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        """Make random ones.

        Args:
            config: Kind, number and sizes.
            encoder: Of the encoder that they are for.
            rngs: Supplies the stream `params`.

        Raises:
            UsageError: As of `LatentsConfig.check`.
        """
        config.check(encoder)
        self.layers = nnx.vmap(lambda rngs: LatentLayer(config, encoder, rngs=rngs))(
            nnx.Rngs(params=jax.random.split(rngs.params(), config.layers))
        )
        self.config = config

    def written(self, values: Float[Array, "S *B Z"]) -> Float[Array, "S *B D"]:
        """What is put in the place of the first token's state, before each of the layers."""
        graphdef, state = nnx.split(self.layers)

        def one(params: Params, own: Array) -> Array:
            return nnx.merge(graphdef, params).outward(own)

        return jax.vmap(one)(nnx.to_pure_dict(state), values)


class Posterior(NamedTuple):
    """What a layer says of a latent.

    Attributes:
        mean: Its mean, or its mean direction.
        log_variance: None where the spread is fixed.
    """

    mean: Float[Array, "K T Z"]
    log_variance: Float[Array, "K T Z"] | None


Choose: TypeAlias = Callable[[Posterior, Int[Array, ""]], Float[Array, "K T Z"]]
"""The latents of a layer, counted from 0 among those that have one."""


def means(posterior: Posterior, layer: Int[Array, ""]) -> Float[Array, "K T Z"]:
    """The likeliest latents."""
    return posterior.mean


def given(latents: Float[Array, "S K T Z"]) -> Choose:
    """Latents that are known, whatever the text in front says."""
    return lambda posterior, layer: latents[layer]


def drawn(config: LatentsConfig, key: Key[Array, ""], place: Int[Array, "K"]) -> Choose:
    """Latents drawn at random; those of a block depend on its place in the batch, and on no other.

    Args:
        config: Of the latents.
        key: Of the step.
        place: Place of each block in the global batch.
    """
    keys = jax.vmap(lambda block: jax.random.fold_in(key, block))(place.astype(jnp.uint32))

    def choose(posterior: Posterior, layer: Int[Array, ""]) -> Float[Array, "K T Z"]:
        own = jax.vmap(lambda block: jax.random.fold_in(block, layer))(keys)
        if posterior.log_variance is None:
            table = von_mises_fisher.angles(config.size, config.kappa).quantiles
            return jax.vmap(lambda key, mean: von_mises_fisher.sample(key, mean, table))(
                own, posterior.mean
            )
        noise = jax.vmap(lambda key: jax.random.normal(key, posterior.mean.shape[1:]))(own)
        return posterior.mean + jnp.exp(0.5 * posterior.log_variance) * noise

    return choose


class Passed(NamedTuple):
    """What a pass with latents gives.

    Attributes:
        states: Hidden states behind the last layer, of all places.
        latents: Of each layer that has one, and each text.
        divergence: Of each of them from its prior, in nats.
    """

    states: Float[Array, "K P D"]
    latents: Float[Array, "S K T Z"]
    divergence: Float[Array, "S K T"]


def segments(block: Block) -> tuple[Int[Array, "K R L"], Int[Array, "K R L"]]:
    """Who sees whom in layers without latents, and in those with them, as `may_see` takes it."""
    behind = jnp.zeros_like(block.tokens) if block.segment is None else jnp.asarray(block.segment)
    apart = jnp.where(behind == 1, BEHIND, HIDDEN)
    through_first = jnp.where((apart == HIDDEN) & (jnp.asarray(block.positions) == 0), FRONT, apart)
    return apart, through_first


def pass_through(
    encoder: Encoder,
    latents: Latents,
    block: Block,
    choose: Choose,
    *,
    dropout_key: Key[Array, ""] | None = None,
    place: Int[Array, "K"] | None = None,
    gather_layer: Callable[[Params], Params] | None = None,
    remat: Remat | None = None,
) -> Passed:
    """Runs `K` blocks through an encoder whose last layers have latents.

    Args:
        encoder: The encoder.
        latents: Their ways in and out.
        block: Texts in front, each with one behind it or none, whose places count from 0 again.
        choose: What becomes of a posterior.
        dropout_key: Key of the step's dropout; None turns dropout off.
        place: Place of each block in the global batch; None counts from 0.
        gather_layer: As of `Encoder.__call__`.
        remat: As of `Encoder.__call__`.
    """
    count, rows, length = block.tokens.shape
    assert encoder.config.architecture.token_types  # which say which text stands in front
    tokens, positions, text = (
        jnp.reshape(x, (-1, length)) for x in (block.tokens, block.positions, block.text)
    )
    keys = None
    if dropout_key is not None:
        place = jnp.arange(count) if place is None else jnp.atleast_1d(place)
        keys = row_keys(dropout_key, place, rows)
    config, (graphdef, state) = encoder.config, nnx.split(latents.layers)
    stacked = nnx.to_pure_dict(state)
    segment = None if block.segment is None else jnp.reshape(block.segment, (-1, length))
    x = encoder.embeddings(tokens, positions, keys, encoder.dtype, segment)
    apart, through_first = (
        look(config, text, positions, None, jnp.reshape(part, (-1, length)))
        for part in segments(block)
    )
    first = jnp.asarray(block.first)
    there = jax.vmap(present)(jnp.reshape(block.text, (count, -1)), first)
    # Nothing is written for a text that is absent.
    target = jnp.where(there, first, rows * length)

    def change(x: Array, scanned: tuple[Params, Array]) -> tuple[Array, tuple[Array, Array]]:
        params, layer = scanned
        own = nnx.merge(graphdef, params)
        states = x.reshape(count, rows * length, -1)
        read = jnp.take_along_axis(states, first[..., None], axis=1)
        posterior = posterior_of(latents.config, own.inward(read.astype(jnp.float32)))
        chosen = choose(posterior, layer)
        back = own.outward(chosen.astype(x.dtype))
        written = jax.vmap(lambda block, at, new: block.at[at].set(new, mode="drop"))(
            states, target, back
        )
        divergence = jnp.where(there, divergence_of(latents.config, posterior), 0.0)
        return written.reshape(x.shape), (chosen, divergence)

    run = encoder.runner(keys, gather_layer, remat)
    below = config.num_layers - latents.config.layers
    x, _ = run(x, apart, 0, below)
    before = Before(change, (stacked, jnp.arange(latents.config.layers)))
    x, (chosen, divergence) = run(x, through_first, below, config.num_layers, before)
    return Passed(x.reshape(count, rows * length, -1), chosen, divergence)


def posterior_of(config: LatentsConfig, read: Float[Array, "K T I"]) -> Posterior:
    """What the projection of a state says of its latent."""
    if config.kind == "gaussian":
        mean, log_variance = jnp.split(read, 2, axis=-1)
        return Posterior(mean, log_variance)
    return Posterior(unit(read), None)


def unit(x: Float[Array, "*B Z"]) -> Float[Array, "*B Z"]:
    """Vectors of length 1 in the same direction; 0 stays 0, with a finite gradient."""
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-24)


def divergence_of(config: LatentsConfig, posterior: Posterior) -> Float[Array, "K T"]:
    """KL divergence of latents from their prior, in nats: uniform on the sphere, or normal."""
    if posterior.log_variance is None:
        constant = von_mises_fisher.angles(config.size, config.kappa).divergence
        return jnp.full(posterior.mean.shape[:-1], constant, jnp.float32)
    squares = jnp.square(posterior.mean) + jnp.exp(posterior.log_variance)
    return 0.5 * jnp.sum(squares - 1.0 - posterior.log_variance, axis=-1)


def prior(config: LatentsConfig, key: Key[Array, ""], count: int) -> Float[Array, "S N Z"]:
    """Latents of texts that there are not."""
    normal = jax.random.normal(key, (config.layers, count, config.size))
    return unit(normal) if config.kind == "von_mises_fisher" else normal


def embed(encoder: Encoder, latents: Latents, block: Block) -> Float[Array, "*K T D"]:
    """The means of each text's latents side by side, the lowest layer's first; zeros if absent.

    Those of unit length are divided by the root of their number, so that the whole is a unit vector
    and its cosine the mean of the latents' cosines.
    """
    single = block.tokens.ndim == 2
    if single:
        block = jax.tree.map(lambda array: array[None], block)
    found = pass_through(encoder, latents, block, means).latents
    layers, count, texts, _ = found.shape
    joined = jnp.moveaxis(found, 0, 2).reshape(count, texts, -1)
    if latents.config.kind == "von_mises_fisher":
        joined = joined / math.sqrt(layers)
    there = jax.vmap(present)(jnp.reshape(block.text, (count, -1)), jnp.asarray(block.first))
    joined = jnp.where(there[..., None], joined, 0.0)
    return joined[0] if single else joined


def interpolated(
    config: LatentsConfig,
    one: Float[Array, "S Z"],
    other: Float[Array, "S Z"],
    share: Float[Array, "S"],
) -> Float[Array, "S Z"]:
    """Latents between those of two texts, layer by layer.

    On the sphere along the great circle, sin((1 - t) a) / sin(a) x + sin(t a) / sin(a) y with the
    angle a between them (Shoemake 1985); normal latents along the straight line.

    Args:
        config: Of the latents.
        one: Of one text.
        other: Of the other.
        share: `t` of each layer: 0 is the one's latent, 1 the other's.
    """
    t = share[:, None]
    if config.kind == "gaussian":
        return (1.0 - t) * one + t * other
    angle = jnp.arccos(jnp.clip(jnp.sum(one * other, axis=-1, keepdims=True), -1.0, 1.0))
    # Where they are one, or opposite, no circle is greater than others; a straight line will do.
    near = jnp.sin(angle) < 1e-4
    sine = jnp.where(near, 1.0, jnp.sin(angle))
    arc = (jnp.sin((1.0 - t) * angle) * one + jnp.sin(t * angle) * other) / sine
    return unit(jnp.where(near, (1.0 - t) * one + t * other, arc))
