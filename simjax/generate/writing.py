"""A text behind another one, token by token: one pass over what is in front, then a step each."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from simjax.generate.sampling import draw
from simjax.models.cache import Cache, extend
from simjax.models.latents import Latents
from simjax.models.lm_head import LanguageModelHead
from simjax.models.sentence_model import GraphDef, SentenceModel, merge
from simjax.types import Params


class Limits(NamedTuple):
    """What a distribution is cut to; see `SamplingConfig`."""

    temperature: Float[Array, ""] | float
    top_k: Int[Array, ""] | int
    top_p: Float[Array, ""] | float


class Drawing(NamedTuple):
    """How tokens are drawn.

    Attributes:
        allowed: Tokens that may be drawn, the one that ends a text aside.
        end: That one.
        key: Of the draws.
        limits: What distributions are cut to.
        most: Tokens that a text may have, its end included.
    """

    allowed: Bool[Array, "V"]
    end: Int[Array, ""] | int
    key: Key[Array, ""]
    limits: Limits
    most: Int[Array, ""] | int


class Front(NamedTuple):
    """What stands in front of the texts that are written, read once.

    Attributes:
        cache: Keys and values of its places, and room for those of the texts behind.
        logits: Of the first token behind it.
        position: Of that token.
        seen: Which places of the cache are seen from behind: in all layers, or in each.
        places: Places that it takes in the cache, padding included.
    """

    cache: Cache
    logits: Float[Array, "N V"]
    position: Int[Array, ""] | int
    seen: Bool[Array, "S K"]
    places: int


def read_front(
    model: SentenceModel,
    head: LanguageModelHead,
    tokens: Int[Array, "P"],
    length: Int[Array, ""],
    room: int,
) -> Front:
    """Reads the text in front, which sees itself alone and both ways.

    Args:
        model: The encoder.
        head: Its head.
        tokens: Of the text, with padding behind.
        length: How many are real.
        room: Tokens that there shall be room for behind it.
    """
    places = tokens.shape[0]
    cache = Cache.empty(model.config, 1, places + room, model.dtype)
    real = jnp.arange(places + room) < length
    seen = jnp.broadcast_to(real[None, :, None], (1, places + room, places))
    positions = jnp.arange(places)[None]
    nothing = jnp.zeros_like(positions)
    states, cache = extend(model.encoder, tokens[None], positions, nothing, cache, 0, seen)
    last = jax.lax.dynamic_index_in_dim(states[0], length - 1)
    return Front(cache, _logits(model, head, last), length, real[None], places)


def read_latents(
    model: SentenceModel,
    head: LanguageModelHead,
    latents: Latents,
    values: Float[Array, "S N Z"],
    start: Int[Array, ""] | int,
    room: int,
) -> Front:
    """Puts latents in the place of texts in front, and reads the token that texts begin with.

    Args:
        model: The encoder.
        head: Its head.
        latents: Their way into its states.
        values: Those of `N` texts.
        start: The token.
        room: Tokens that there shall be room for behind it.
    """
    config, count = model.config, values.shape[1]
    nothing = jnp.zeros((count, 1), jnp.int32)
    written = latents.written(values).astype(model.dtype)
    cache = Cache.empty(config, count, 2 + room, model.dtype)
    cache = cache.with_states(model.encoder, written, nothing)
    slots, layers = jnp.arange(2 + room), jnp.arange(config.num_layers)
    has_latent = layers >= config.num_layers - values.shape[0]
    seen = (slots == 1) | ((slots == 0) & has_latent[:, None])
    states, cache = extend(
        model.encoder, nothing + start, nothing, nothing + 1, cache, 1, _to_all(seen, count)
    )
    return Front(cache, _logits(model, head, states[:, 0]), 1, seen, 2)


def _to_all(seen: Bool[Array, "S K"], count: int) -> Bool[Array, "S N K 1"]:
    return jnp.broadcast_to(seen[:, None, :, None], (seen.shape[0], count, seen.shape[1], 1))


def write_on(
    model: SentenceModel,
    head: LanguageModelHead,
    front: Front,
    cache: Cache,
    tokens: Int[Array, "N"],
    number: Int[Array, ""] | int,
) -> tuple[Float[Array, "N V"], Cache]:
    """Logits of the token behind each of `N` texts' newest one.

    Args:
        model: The encoder.
        head: Its head.
        front: What is in front of them.
        cache: With all tokens before the newest ones.
        tokens: The newest ones.
        number: Of them in their texts, from 0.
    """
    slots = jnp.arange(cache.keys.shape[2])
    behind = (slots >= front.places) & (slots <= front.places + number)
    seen = _to_all(front.seen | behind, tokens.shape[0])
    positions = jnp.broadcast_to(front.position + number, tokens.shape)[:, None]
    segment = jnp.ones_like(positions)
    place = front.places + number
    states, cache = extend(model.encoder, tokens[:, None], positions, segment, cache, place, seen)
    return _logits(model, head, states[:, 0]), cache


def _logits(
    model: SentenceModel, head: LanguageModelHead, states: Float[Array, "N D"]
) -> Float[Array, "N V"]:
    return head(states, model.encoder.embeddings.word.embedding[...])


@partial(jax.jit, static_argnames=("graphdef", "head_graph", "count", "room"))
def write(
    graphdef: GraphDef,
    head_graph: GraphDef,
    params: Params,
    head_params: Params,
    tokens: Int[Array, "P"],
    length: Int[Array, ""],
    drawing: Drawing,
    *,
    count: int,
    room: int,
) -> Int[Array, "N G"]:
    """Draws `N` texts behind one.

    Args:
        graphdef: Structure of the model.
        head_graph: Structure of its head.
        params: Parameters of the model.
        head_params: Parameters of the head.
        tokens: Of the text in front, with padding behind.
        length: How many are real.
        drawing: How tokens are drawn.
        count: `N`.
        room: `G`, at least `drawing.most`.

    Returns:
        As of `write_behind`.
    """
    model, head = merge(graphdef, params), merge(head_graph, head_params)
    front = read_front(model, head, tokens, length, room)
    return write_behind(model, head, front, drawing, count=count, room=room)


@partial(jax.jit, static_argnames=("graphs", "count", "room"))
def write_from_latents(
    graphs: tuple[GraphDef, GraphDef, GraphDef],
    params: tuple[Params, Params, Params],
    values: Float[Array, "S M Z"],
    start: Int[Array, ""],
    drawing: Drawing,
    *,
    count: int,
    room: int,
) -> Int[Array, "N G"]:
    """Draws `count` texts from the latents of each of `M` texts, those of one text side by side.

    Args:
        graphs: Structures of the model, its head and its latents.
        params: Their parameters.
        values: The latents.
        start: The token that texts begin with.
        drawing: How tokens are drawn.
        count: Texts from each.
        room: `G`, at least `drawing.most`.

    Returns:
        As of `write_behind`.
    """
    model, head, latents = (merge(*part) for part in zip(graphs, params, strict=True))
    front = read_latents(model, head, latents, values, start, room)
    return write_behind(model, head, front, drawing, count=count, room=room)


def write_behind(
    model: SentenceModel,
    head: LanguageModelHead,
    front: Front,
    drawing: Drawing,
    *,
    count: int,
    room: int,
) -> Int[Array, "N G"]:
    """Draws `count` texts behind each of those in front.

    The first token of a text is none that ends it. What is not reached is -1.

    Args:
        model: The encoder.
        head: Its head.
        front: What is in front.
        drawing: How tokens are drawn.
        count: Texts behind each.
        room: `G`, at least `drawing.most`.
    """
    inner = jnp.where(drawing.allowed, 0.0, -jnp.inf)
    anywhere = inner.at[drawing.end].set(0.0)

    def chosen(logits: Array, number: Array, done: Array) -> tuple[Array, Array]:
        bias = jnp.where(number == 0, inner, anywhere)
        key = jax.random.fold_in(drawing.key, number)
        drawn = draw(key, logits + bias, *drawing.limits)
        drawn = jnp.where(done, -1, drawn)
        return drawn, done | (drawn == drawing.end)

    def going_on(state: tuple[Array, Array, Array, Array, Cache]) -> Array:
        number, _, done, _, _ = state
        return (number < drawing.most) & ~done.all()

    def step(
        state: tuple[Array, Array, Array, Array, Cache],
    ) -> tuple[Array, Array, Array, Array, Cache]:
        number, written, done, logits, cache = state
        drawn, done = chosen(logits, number, done)
        written = jax.lax.dynamic_update_index_in_dim(written, drawn, number, axis=1)
        logits, cache = write_on(model, head, front, cache, jnp.maximum(drawn, 0), number)
        return number + 1, written, done, logits, cache

    texts = count * front.logits.shape[0]
    start = (
        jnp.zeros((), jnp.int32),
        jnp.full((texts, room), -1, jnp.int32),
        jnp.zeros(texts, bool),
        jnp.repeat(front.logits, count, axis=0),
        front.cache.repeated(count),
    )
    return jax.lax.while_loop(going_on, step, start)[1]
