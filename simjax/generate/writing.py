"""A text's paraphrases, token by token: one pass over the text, then a step for each token."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from simjax.generate.sampling import draw
from simjax.models.cache import Cache, extend
from simjax.models.lm_head import LanguageModelHead
from simjax.models.sentence_model import GraphDef, SentenceModel, merge
from simjax.types import Params


class Limits(NamedTuple):
    """What a distribution is cut to; see `SamplingConfig`."""

    temperature: Float[Array, ""] | float
    top_k: Int[Array, ""] | int
    top_p: Float[Array, ""] | float


class Front(NamedTuple):
    """The text in front, read once.

    Attributes:
        cache: Keys and values of its places, and room for those of the texts behind.
        logits: Of the first token behind it.
        length: Its tokens.
        places: Places that it takes in the cache, padding included.
    """

    cache: Cache
    logits: Float[Array, "1 V"]
    length: Int[Array, ""]
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
    return Front(cache, _logits(model, head, last), length, places)


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
        front: The text in front of all of them.
        cache: With all tokens before the newest ones.
        tokens: The newest ones.
        number: Of them in their texts, from 0.
    """
    slots = jnp.arange(cache.keys.shape[2])
    behind = (slots >= front.places) & (slots <= front.places + number)
    seen = jnp.broadcast_to(
        ((slots < front.length) | behind)[None, :, None], (tokens.shape[0], slots.shape[0], 1)
    )
    positions = jnp.broadcast_to(front.length + number, tokens.shape)[:, None]
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
    allowed: Bool[Array, "V"],
    end: Int[Array, ""],
    key: Key[Array, ""],
    limits: Limits,
    most: Int[Array, ""],
    *,
    count: int,
    room: int,
) -> Int[Array, "N G"]:
    """Draws `N` texts behind one.

    The first token of a text is none that ends it. What is not reached is -1.

    Args:
        graphdef: Structure of the model.
        head_graph: Structure of its head.
        params: Parameters of the model.
        head_params: Parameters of the head.
        tokens: Of the text in front, with padding behind.
        length: How many are real.
        allowed: Tokens that may be drawn, the one that ends a text aside.
        end: That one.
        key: Of the draws.
        limits: What distributions are cut to.
        most: Tokens that a text may have, its end included.
        count: `N`.
        room: `G`, at least `most`.
    """
    model, head = merge(graphdef, params), merge(head_graph, head_params)
    front = read_front(model, head, tokens, length, room)
    inner = jnp.where(allowed, 0.0, -jnp.inf)
    anywhere = inner.at[end].set(0.0)

    def chosen(logits: Array, number: Array, done: Array) -> tuple[Array, Array]:
        bias = jnp.where(number == 0, inner, anywhere)
        drawn = draw(jax.random.fold_in(key, number), logits + bias, *limits)
        drawn = jnp.where(done, -1, drawn)
        return drawn, done | (drawn == end)

    def going_on(state: tuple[Array, Array, Array, Array, Cache]) -> Array:
        number, _, done, _, _ = state
        return (number < most) & ~done.all()

    def step(
        state: tuple[Array, Array, Array, Array, Cache],
    ) -> tuple[Array, Array, Array, Array, Cache]:
        number, written, done, logits, cache = state
        drawn, done = chosen(logits, number, done)
        written = jax.lax.dynamic_update_index_in_dim(written, drawn, number, axis=1)
        logits, cache = write_on(model, head, front, cache, jnp.maximum(drawn, 0), number)
        return number + 1, written, done, logits, cache

    start = (
        jnp.zeros((), jnp.int32),
        jnp.full((count, room), -1, jnp.int32),
        jnp.zeros(count, bool),
        jnp.repeat(front.logits, count, axis=0),
        front.cache.repeated(count),
    )
    return jax.lax.while_loop(going_on, step, start)[1]
