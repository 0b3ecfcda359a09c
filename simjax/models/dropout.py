"""Dropout whose mask depends on what is dropped, and not on how the work is cut up.

A row's mask is a function of the step's key, the block's place in the global batch, the row's
place in the block (or in its group of rows, where groups share their masks), the layer and the
site in the layer. Micro-batches, devices, processes and the number of rows therefore do not change
it.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Float, Int, Key, UInt32

from simjax import mesh as meshes
from simjax.errors import UsageError

_LEVELS = 256
_TOLERANCE = 0.02


def dropped_levels(rate: float) -> int:
    """How many of the 256 values of an 8-bit draw mean "drop" at this rate.

    Raises:
        UsageError: the rate is outside [0, 1), or 8 bits miss it by more than 2 %.
    """
    if not 0.0 <= rate < 1.0:
        raise UsageError(f"dropout rate {rate} is not in [0, 1)")
    levels = round(rate * _LEVELS)
    if abs(levels / _LEVELS - rate) > _TOLERANCE * rate or levels == _LEVELS:
        raise UsageError(
            f"dropout rate {rate} would become {levels / _LEVELS:.4f} with 8-bit draws; "
            f"take a multiple of 1/256, or a larger rate"
        )
    return levels


def rescale(rate: float) -> float:
    """By how much what is kept grows: the inverse of the mask's true rate of keeping."""
    return _LEVELS / (_LEVELS - dropped_levels(rate))


def row_keys(
    key: Key[Array, ""], place: Int[Array, "K"], num_rows: int, groups: int = 1
) -> UInt32[Array, "K*R 2"]:
    """One threefry key per row: `fold_in(fold_in(key, place[k]), row)`, as raw words.

    Args:
        key: Of the step.
        place: Place of each block in the global batch.
        num_rows: Rows of a block.
        groups: The rows of a block are so many groups of equal size, one behind the other, and
            rows count from 0 in each: what stands at one place of each group is dropped alike.
    """
    if num_rows % groups:
        raise ValueError(f"{num_rows} rows in {groups} groups of equal size")

    def of_block(block_place: Array) -> Array:
        block_key = jax.random.fold_in(key, block_place)
        fold = jax.vmap(lambda row: jax.random.fold_in(block_key, row))
        return fold(jnp.arange(num_rows, dtype=jnp.uint32) % jnp.uint32(num_rows // groups))

    words = jax.random.key_data(jax.vmap(of_block)(place.astype(jnp.uint32)))
    if words.shape[-1] != 2:
        raise UsageError("dropout needs a threefry key: jax.random.key(seed, impl='threefry2x32')")
    return words.reshape(-1, 2)


def keep_mask(
    keys: UInt32[Array, "N 2"], site: Int[Array, ""] | int, shape: tuple[int, ...], rate: float
) -> Array:
    """Boolean mask [N, *shape], true with probability `1 - dropped_levels(rate) / 256`.

    Draw `j` (0 to 7) of counter `c` of a row decides element `j * ceil(n / 8) + c` of its `n`.
    """
    size = math.prod(shape)
    counters = -(-size // 8)
    low = jnp.arange(counters, dtype=jnp.uint32)
    counter = jnp.concatenate([low, jnp.full_like(low, jnp.asarray(site).astype(jnp.uint32))])
    # A call of JAX's own generator, and not its formula written out: the compiler would fuse
    # that into what follows and compute each word anew for its four draws.
    words = jax.vmap(lambda key: threefry_2x32((key[0], key[1]), counter))(keys)
    words = words.reshape(-1, 2, counters)
    shifts = jnp.arange(0, 32, 8, dtype=jnp.uint32)[:, None]
    draws = (words[:, :, None, :] >> shifts) & jnp.uint32(_LEVELS - 1)
    keep = draws >= jnp.uint32(dropped_levels(rate))
    return keep.reshape(keys.shape[0], 8 * counters)[:, :size].reshape(keys.shape[0], *shape)


def dropout(
    x: Float[Array, "N *S"],
    keys: UInt32[Array, "N 2"] | None,
    site: Int[Array, ""] | int,
    rate: float,
    features: int | None = None,
) -> Float[Array, "N *S"]:
    """Zero elements at `rate` and rescale the others by the mask's true rate; off without keys.

    Args:
        x: What is dropped from, or a device's part of it along the last dimension.
        keys: Key words of each row.
        site: Number of the mask.
        rate: Dropout rate.
        features: Of the whole, where `x` is a part.
    """
    if keys is None or rate == 0.0:
        return x
    keep = keep_mask(keys, site, (*x.shape[1:-1], features or x.shape[-1]), rate)
    keep = meshes.own_part(keep, keep.ndim - 1, x)
    return jnp.where(keep, x * jnp.asarray(rescale(rate), x.dtype), jnp.zeros((), x.dtype))
