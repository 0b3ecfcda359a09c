"""Self-attention among the tokens of one text, several texts to a row, with its own gradient.

Scores are held with keys before queries. Then each of the seven products of the two passes is a
plain row-by-column product of a score-sized array with a narrow one, and only narrow arrays are
ever transposed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int, UInt32

from simjax import mesh as meshes
from simjax.models import dropout as drop
from simjax.models.dense import put_by, take_out
from simjax.ops.operands import settle

# Far below any score, far above float32's smallest number.
MASKED = -1e30

FRONT, BEHIND, HIDDEN = 0, 1, 2
"""Segments as attention takes them: a token in front that all of its text sees, one behind that is
seen from its place on by those behind, and one in front that those in front alone see."""


def may_see(
    key_text: Int[Array, "N K"],
    query_text: Int[Array, "N Q"],
    distance: Int[Array, "K Q"] | None = None,
    window: int | None = None,
    segments: tuple[Int[Array, "N K"], Int[Array, "N Q"]] | None = None,
) -> Float[Array, "N K Q"]:
    """What is added to the scores: 0 where a query sees a key, else far below any score.

    Args:
        key_text: Number of each key's text. Padding has one number and attends to padding, so that
            no row is empty.
        query_text: The same of the queries.
        distance: Places from each query to each key; a text's tokens stand side by side.
        window: Largest distance that is seen, both ways; None sees the whole text.
        segments: Those of keys and of queries, each `FRONT`, `BEHIND` or `HIDDEN`; None where all
            is one.
    """
    seen = key_text[:, :, None] == query_text[:, None, :]
    if window is not None and distance is not None:
        seen &= jnp.abs(distance) <= window
    if segments is not None:
        assert distance is not None  # says which of two tokens comes first
        key, query = segments[0][:, :, None], segments[1][:, None, :]
        behind = (key == BEHIND) & (query == BEHIND) & (distance <= 0)
        seen &= (key == FRONT) | behind | ((key == HIDDEN) & (query != BEHIND))
    return jnp.where(seen, 0.0, MASKED).astype(jnp.float32)


def attend(
    q: Float[Array, "N Q D"],
    k: Float[Array, "N K D"],
    v: Float[Array, "N K D"],
    bias: Float[Array, "N K Q"],
    relative: Float[Array, "H K Q"] | None,
    mask: tuple[UInt32[Array, "N 2"], Int[Array, ""] | int] | None,
    heads: Heads,
) -> Float[Array, "N Q D"]:
    """Attention by the fastest way that the backend has for it.

    On a GPU that is cuDNN's fused attention, for half-precision heads of at most 128 features
    without dropout or learned scores, in rows of even length. Everything else goes through
    `attend_here`, whose arguments these are.
    """
    features = q.shape[-1] // heads.here
    narrow = q.dtype in (jnp.bfloat16, jnp.float16) and features <= 128 and features % 8 == 0
    even = q.shape[1] % 2 == 0 and k.shape[1] % 2 == 0
    if narrow and even and mask is None and relative is None and _has_fused_attention():
        return attend_fused(q, k, v, bias, heads.here)
    return attend_here(q, k, v, bias, relative, mask, heads)


def _has_fused_attention() -> bool:
    """Whether programs are for CUDA devices of compute capability 8.0 (Ampere) or newer."""
    device = jax.devices()[0]
    if device.platform != "gpu" or "nvidia" not in device.device_kind.lower():
        return False
    return float(getattr(device, "compute_capability", 0)) >= 8


def attend_fused(
    q: Float[Array, "N Q D"],
    k: Float[Array, "N K D"],
    v: Float[Array, "N K D"],
    bias: Float[Array, "N K Q"],
    num_heads: int,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> Float[Array, "N Q D"]:
    """`attend_here` as cuDNN's kernel, which makes no scores outside of the chip."""
    queries, keys, values = (rearrange(x, "n l (h c) -> n l h c", h=num_heads) for x in (q, k, v))
    seen = rearrange(bias == 0.0, "n k q -> n 1 q k")
    context = jax.nn.dot_product_attention(
        queries, keys, values, mask=seen, implementation=implementation
    )
    return rearrange(context, "n l h c -> n l (h c)")


@dataclass(frozen=True)
class Heads:
    """The heads of a call.

    Attributes:
        here: `H`, as many as this device has.
        rate: Dropout rate of the probabilities.
        all: Of all devices that share them; their masks are those of one device with all of them.
    """

    here: int
    rate: float
    all: int


@partial(jax.custom_vjp, nondiff_argnums=(6,))
def attend_here(
    q: Float[Array, "N Q D"],
    k: Float[Array, "N K D"],
    v: Float[Array, "N K D"],
    bias: Float[Array, "N K Q"],
    relative: Float[Array, "H K Q"] | None,
    mask: tuple[UInt32[Array, "N 2"], Int[Array, ""] | int] | None,
    heads: Heads,
) -> Float[Array, "N Q D"]:
    """`softmax(q k' / sqrt(D / H) + bias) v` per head (Vaswani et al. 2017), softmax in float32.

    Products have operands of the dtype of `q` and are summed in float32, in both passes.

    Args:
        q: Queries, with their heads side by side.
        k: Keys.
        v: Values.
        bias: The same for all heads; it has no gradient.
        relative: The same for all rows, or None; it has a gradient.
        mask: Dropout key words of each row and number of the mask; None turns dropout off.
            Dropout falls on the probabilities, as in BERT.
        heads: `H` and the dropout rate.
    """
    return _forward(q, k, v, bias, relative, mask, heads)[0]


def _product(spec: str, a: Array, b: Array) -> Array:
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)


def _heads(x: Float[Array, "N L D"], num_heads: int) -> Float[Array, "N H L C"]:
    return settle(rearrange(x, "n l (h c) -> n h l c", h=num_heads))


def _heads_across(x: Float[Array, "N L D"], num_heads: int) -> Float[Array, "N H C L"]:
    return settle(rearrange(x, "n l (h c) -> n h c l", h=num_heads))


_Residuals = tuple[Array, Array, Array, Array, Array | None, tuple[Array, Array | int] | None]


def _forward(
    q: Array,
    k: Array,
    v: Array,
    bias: Array,
    relative: Array | None,
    mask: tuple[Array, Array | int] | None,
    heads: Heads,
) -> tuple[Array, _Residuals]:
    num_heads, rate = heads.here, heads.rate
    scale = (q.shape[-1] // num_heads) ** -0.5
    scores = _product("nhkc,nhcq->nhkq", _heads(k, num_heads), _heads_across(q, num_heads))
    scores = scores * scale + bias[:, None]
    if relative is not None:
        scores = scores + relative
    exponentials = jnp.exp(scores - jnp.max(scores, axis=2, keepdims=True))
    inverse = 1.0 / jnp.sum(exponentials, axis=2, keepdims=True)
    probabilities = (exponentials * inverse).astype(q.dtype)
    kept = probabilities
    if mask is not None:
        # One array remembers both probability and mask: what is dropped gets a minus sign.
        keep = drop.keep_mask(*mask, (heads.all, *probabilities.shape[2:]), rate)
        keep = meshes.own_part(keep, 1, q)
        probabilities = jnp.where(keep, probabilities, -probabilities)
        kept = jnp.maximum(probabilities, jnp.zeros((), q.dtype))
    across = _product("nhck,nhkq->nhcq", _heads_across(v, num_heads), kept)
    across = (across * _rescale(mask, rate)).astype(q.dtype)
    context = rearrange(across, "n h c l -> n l (h c)")
    return context, (put_by(q), put_by(k), put_by(v), put_by(probabilities), relative, mask)


def _rescale(mask: object, rate: float) -> float:
    return 1.0 if mask is None else drop.rescale(rate)


def _backward(
    heads: Heads, residuals: _Residuals, cotangent: Array
) -> tuple[Array, Array, Array, None, Array | None, None]:
    q, k, v, probabilities = (take_out(x) for x in residuals[:4])
    relative, mask = residuals[4:]
    num_heads, rate = heads.here, heads.rate
    scale = (q.shape[-1] // num_heads) ** -0.5
    rescale = _rescale(mask, rate)

    zero = jnp.zeros((), q.dtype)
    kept = probabilities if mask is None else jnp.maximum(probabilities, zero)
    to_v = _product("nhkq,nhqc->nhkc", kept, _heads(cotangent, num_heads)) * rescale
    to_kept = _product("nhkc,nhcq->nhkq", _heads(v, num_heads), _heads_across(cotangent, num_heads))
    # d softmax = p (dp - sum p dp), where dp is zero for what was dropped and p is not.
    with_dp = kept.astype(jnp.float32) * to_kept * rescale
    total = jnp.sum(with_dp, axis=2, keepdims=True)
    to_scores = with_dp - jnp.abs(probabilities).astype(jnp.float32) * total
    to_relative = None if relative is None else jnp.sum(to_scores, axis=0)
    to_scores = (to_scores * scale).astype(q.dtype)
    to_k = _product("nhkq,nhqc->nhkc", to_scores, _heads(q, num_heads))
    to_q = _product("nhck,nhkq->nhcq", _heads_across(k, num_heads), to_scores)

    def joined(x: Float[Array, "N L H C"]) -> Array:
        return rearrange(x, "n l h c -> n l (h c)").astype(q.dtype)

    return (
        joined(to_q.transpose(0, 3, 1, 2)),
        joined(to_k.transpose(0, 2, 1, 3)),
        joined(to_v.transpose(0, 2, 1, 3)),
        None,
        to_relative,
        None,
    )


attend_here.defvjp(_forward, _backward)


def attend_in_blocks(
    q: Float[Array, "N L D"],
    k: Float[Array, "N L D"],
    v: Float[Array, "N L D"],
    text: Int[Array, "N L"],
    mask: tuple[UInt32[Array, "N 2"], Int[Array, ""] | int] | None,
    heads: Heads,
    *,
    block: int,
    window: int | None,
    segment: Int[Array, "N L"] | None = None,
) -> Float[Array, "N L D"]:
    """`attend` for rows so long that their scores would not fit: `block` queries at a time.

    Scores are computed anew in the backward pass. With a window, a block of queries meets the keys
    within reach and no others, so that the work grows with `L`, not with its square.

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        text: Number of each token's text.
        mask: As in `attend`; each block of queries has masks of its own.
        heads: As in `attend_here`.
        block: Queries at a time.
        window: Largest distance that is seen, both ways; None sees the whole text.
        segment: As of `may_see`, of all tokens.
    """
    length = q.shape[1]
    blocks = -(-length // block)
    reach = length if window is None else min(window, length)
    # Every slice lies inside of what is filled up; nothing has these texts' numbers.
    after = blocks * block - length
    keys_before, keys_after = (0, 0) if window is None else (reach, reach + after)
    queries = _fill(q, 0, after), jnp.pad(text, ((0, 0), (0, after)), constant_values=-2)
    k, v = _fill(k, keys_before, keys_after), _fill(v, keys_before, keys_after)
    key_text = jnp.pad(text, ((0, 0), (keys_before, keys_after)), constant_values=-3)
    if segment is not None:
        query_segment = jnp.pad(segment, ((0, 0), (0, after)))
        key_segment = jnp.pad(segment, ((0, 0), (keys_before, keys_after)))
    num_keys = length if window is None else block + 2 * reach

    @jax.checkpoint
    def one(number: Int[Array, ""]) -> Float[Array, "N b D"]:
        start = number * block
        first = jnp.zeros((), start.dtype) if window is None else start

        def keys(x: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, first, num_keys, axis=1)

        def at_queries(x: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, start, block, axis=1)

        own, own_text = map(at_queries, queries)
        places = jnp.arange(num_keys) + first - keys_before
        distance = places[:, None] - (jnp.arange(block) + start)[None, :]
        both = None if segment is None else (keys(key_segment), at_queries(query_segment))
        bias = may_see(keys(key_text), own_text, distance, window, both)
        site = None if mask is None else (mask[0], jnp.asarray(mask[1]) + (number << _SITE_BITS))
        return attend(own, keys(k), keys(v), bias, None, site, heads)

    context = jax.lax.map(one, jnp.arange(blocks))
    return rearrange(context, "m n b d -> n (m b) d")[:, :length]


# Sites of masks are numbered below this many bits, blocks of queries above.
_SITE_BITS = 16


def _fill(x: Array, before: int, after: int) -> Array:
    return jnp.pad(x, ((0, 0), (before, after), (0, 0)))
