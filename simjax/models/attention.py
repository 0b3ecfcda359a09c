"""Self-attention among the tokens of one text, several texts to a row, with its own gradient.

Scores are held with keys before queries. Then each of the seven products of the two passes is a
plain row-by-column product of a score-sized array with a narrow one, and only narrow arrays are
ever transposed.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int, UInt32

from simjax.models import dropout as drop
from simjax.models.dense import put_by, take_out
from simjax.ops.operands import settle

# Far below any score, far above float32's smallest number.
_MASKED = -1e30


def same_text(text: Int[Array, "N L"]) -> Float[Array, "N L L"]:
    """What is added to the scores: 0 where two positions belong to one text.

    Padding attends to padding, so that no row is empty.
    """
    return jnp.where(text[:, :, None] == text[:, None, :], 0.0, _MASKED).astype(jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def attend(
    qkv: Float[Array, "N L 3D"],
    bias: Float[Array, "N L L"],
    keys: UInt32[Array, "N 2"] | None,
    site: Int[Array, ""] | int,
    num_heads: int,
    rate: float,
) -> Float[Array, "N L D"]:
    """`softmax(q k' / sqrt(D / H) + bias) v` per head (Vaswani et al. 2017), softmax in float32.

    Products have operands of the dtype of `qkv` and are summed in float32, in both passes.

    Args:
        qkv: Queries, keys and values side by side, each with its heads side by side.
        bias: Symmetric and the same for all heads; it has no gradient.
        keys: Dropout key words of each row; None turns dropout off. Dropout falls on the
            probabilities, as in BERT.
        site: Number of the mask.
        num_heads: `H`.
        rate: Dropout rate.
    """
    return _forward(qkv, bias, keys, site, num_heads, rate)[0]


def _product(spec: str, a: Array, b: Array) -> Array:
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)


def _heads(x: Float[Array, "N L D"], num_heads: int) -> Float[Array, "N H L C"]:
    return settle(rearrange(x, "n l (h c) -> n h l c", h=num_heads))


def _heads_across(x: Float[Array, "N L D"], num_heads: int) -> Float[Array, "N H C L"]:
    return settle(rearrange(x, "n l (h c) -> n h c l", h=num_heads))


def _forward(
    qkv: Array,
    bias: Array,
    keys: Array | None,
    site: Array | int,
    num_heads: int,
    rate: float,
) -> tuple[Array, tuple[Array, Array, Array | None]]:
    q, k, v = jnp.split(qkv, 3, axis=-1)
    scale = (q.shape[-1] // num_heads) ** -0.5
    scores = _product("nhkc,nhcq->nhkq", _heads(k, num_heads), _heads_across(q, num_heads))
    scores = scores * scale + bias[:, None]
    exponentials = jnp.exp(scores - jnp.max(scores, axis=2, keepdims=True))
    inverse = 1.0 / jnp.sum(exponentials, axis=2, keepdims=True)
    probabilities = (exponentials * inverse).astype(qkv.dtype)
    kept = probabilities
    if keys is not None:
        # One array remembers both probability and mask: what is dropped gets a minus sign.
        keep = drop.keep_mask(keys, site, probabilities.shape[1:], rate)
        probabilities = jnp.where(keep, probabilities, -probabilities)
        kept = jnp.maximum(probabilities, jnp.zeros((), qkv.dtype))
    across = _product("nhck,nhkq->nhcq", _heads_across(v, num_heads), kept)
    across = (across * _rescale(keys, rate)).astype(qkv.dtype)
    context = rearrange(across, "n h c l -> n l (h c)")
    return context, (put_by(qkv), put_by(probabilities), keys)


def _rescale(keys: Array | None, rate: float) -> float:
    return 1.0 if keys is None else drop.rescale(rate)


def _backward(
    num_heads: int,
    rate: float,
    residuals: tuple[Array, Array, Array | None],
    cotangent: Array,
) -> tuple[Array, None, None, None]:
    qkv, probabilities = take_out(residuals[0]), take_out(residuals[1])
    keys = residuals[2]
    n, length, _ = qkv.shape
    q, k, v = jnp.split(qkv, 3, axis=-1)
    scale = (q.shape[-1] // num_heads) ** -0.5
    rescale = _rescale(keys, rate)

    zero = jnp.zeros((), qkv.dtype)
    kept = probabilities if keys is None else jnp.maximum(probabilities, zero)
    to_v = _product("nhkq,nhqc->nhkc", kept, _heads(cotangent, num_heads)) * rescale
    to_kept = _product("nhkc,nhcq->nhkq", _heads(v, num_heads), _heads_across(cotangent, num_heads))
    # d softmax = p (dp - sum p dp), where dp is zero for what was dropped and p is not.
    with_dp = kept.astype(jnp.float32) * to_kept * rescale
    total = jnp.sum(with_dp, axis=2, keepdims=True)
    to_scores = with_dp - jnp.abs(probabilities).astype(jnp.float32) * total
    to_scores = (to_scores * scale).astype(qkv.dtype)
    to_k = _product("nhkq,nhqc->nhkc", to_scores, _heads(q, num_heads))
    to_q = _product("nhck,nhkq->nhcq", _heads_across(k, num_heads), to_scores)
    parts = (to_q.transpose(0, 3, 1, 2), to_k.transpose(0, 2, 1, 3), to_v.transpose(0, 2, 1, 3))
    joined = jnp.stack([part.astype(qkv.dtype) for part in parts], axis=2)
    return joined.reshape(n, length, -1), None, None, None


attend.defvjp(_forward, _backward)
