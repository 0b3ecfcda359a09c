"""Self-attention among the tokens of one text, several texts to a row."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from simjax.models import dropout as drop


def same_text(text: Int[Array, "N L"]) -> Bool[Array, "N L L"]:
    """Which positions attend to which. Padding attends to padding, so no row is empty."""
    return text[:, :, None] == text[:, None, :]


def attend(
    qkv: Float[Array, "N L 3D"],
    mask: Bool[Array, "N L L"],
    num_heads: int,
    *,
    keys: UInt32[Array, "N 2"] | None,
    site: Int[Array, ""] | int,
    rate: float,
) -> Float[Array, "N L D"]:
    """`softmax(q k' / sqrt(D / H)) v` per head (Vaswani et al. 2017), softmax in float32.

    Dropout falls on the probabilities, as in BERT.
    """
    n, length, width = qkv.shape
    q, k, v = jnp.moveaxis(qkv.reshape(n, length, 3, num_heads, -1), 2, 0)
    scale = (width // 3 // num_heads) ** -0.5
    scores = jnp.einsum("nqhd,nkhd->nhqk", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None], scores * scale, jnp.finfo(jnp.float32).min)
    probabilities = jax.nn.softmax(scores, axis=-1).astype(qkv.dtype)
    probabilities = drop.dropout(probabilities, keys, site, rate)
    context = jnp.einsum(
        "nhqk,nkhd->nqhd", probabilities, v, preferred_element_type=jnp.float32
    ).astype(qkv.dtype)
    return context.reshape(n, length, -1)
