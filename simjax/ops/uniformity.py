"""Alignment and uniformity of whole sets: every pair, tile by tile, on all devices of a process.

Uniformity is the pair operator's reduction at scale 2t, since |x - y|^2 = 2 - 2 x . y on the
sphere. Of a set with itself only the tiles on and above the diagonal are made.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from simjax.ops.operands import product
from simjax.ops.pairs import ABSENT
from simjax.ops.reductions import Reduction, Sums, terms
from simjax.ops.tiles import even

_TILE = 1024
"""Most rows and columns of a tile, as in `simjax.ops.tiled.tile_shape`."""

_BLOCK = 8
"""Tiles on a side of a block, which is what a device is given at a time."""

_NOT_UNIT = 1e-2
"""How far from 1 a length may be: vectors that were rounded to bfloat16 are off by 4e-3."""

_QUEUED = 2
"""Blocks that wait on a device, so that it is never idle and memory is bounded."""


class AlignUniform(NamedTuple):
    """Alignment and uniformity, in float64.

    Attributes:
        alignment: For each alpha, mean of |x_i - y_i|^alpha; None of a single set.
        uniformity: For each t, log mean of exp(-t |x - y|^2) over `pairs`; NaN without pairs.
        pairs: How many pairs the uniformity is taken over.
    """

    alignment: Float[np.ndarray, "A"] | None
    uniformity: Float[np.ndarray, "T"]
    pairs: int


def align_uniform(
    x: Float[np.ndarray, "N D"],
    y: Float[np.ndarray, "N D"] | None = None,
    *,
    alpha: Sequence[float] = (2.0,),
    t: Sequence[float] = (2.0,),
    ids: Int[np.ndarray, "N"] | None = None,
    tile: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> AlignUniform:
    """Alignment and uniformity (Wang & Isola 2020, arXiv 2005.10242), exact over all pairs.

    Uniformity of one set is taken over its pairs i < j, and across two views over the pairs
    (x_i, y_j) with i != j. Products are float32 and sums of blocks float64. The embeddings stay
    where they are, a memory-mapped file perhaps; beyond them a few megabytes per device are held.

    Args:
        x: Unit vectors.
        y: Another view of the same examples, row by row.
        alpha: Exponents of the alignment.
        t: Inverse widths of the Gaussian kernel, all from the same pass.
        ids: Text ids; pairs of equal texts are left out of the uniformity.
        tile: Rows and columns of a tile; None chooses.
        devices: What computes; by default all devices of this process.

    Raises:
        ValueError: The arrays do not fit each other, a t is not above 0, or a vector is no unit
            vector, for which the uniformity would be another function.
    """
    if y is not None and y.shape != x.shape:
        raise ValueError(f"views of shapes {x.shape} and {y.shape}")
    if ids is not None and ids.shape != x.shape[:1]:
        raise ValueError(f"{len(ids)} ids of {len(x)} embeddings")
    if not all(0 < width < math.inf for width in t):
        raise ValueError(f"t {tuple(t)}: must be above 0 and finite")
    if ids is not None:  # of any width; on devices they are counted with 32 bits
        ids = np.unique(ids, return_inverse=True)[1].reshape(-1)
    for side in (x,) if y is None else (x, y):
        _check_units(side)
    tile = tile or even(max(len(x), 1), _TILE)
    found = _uniformity(x, y, tuple(map(float, t)), ids, tile, devices or jax.local_devices())
    return AlignUniform(None if y is None else alignment(x, y, alpha), *found)


def alignment(
    x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N D"], alpha: Sequence[float] = (2.0,)
) -> Float[np.ndarray, "A"]:
    """Mean of |x_i - y_i|^alpha for each alpha (Wang & Isola 2020), NaN of no rows."""
    totals = np.zeros(len(alpha))
    for rows in _slices(len(x), _TILE):
        difference = np.asarray(x[rows], np.float64) - np.asarray(y[rows], np.float64)
        square = np.einsum("nd,nd->n", difference, difference)
        totals += [(square ** (power / 2)).sum() for power in alpha]
    return totals / len(x) if len(x) else np.full(len(alpha), np.nan)


class _Side(NamedTuple):
    """Some tiles of a set: its vectors, the place of each in the set, and its text."""

    vectors: Float[Array, "I R D"]
    place: Int[Array, "I R"]
    text: Int[Array, "I R"]


def _uniformity(
    x: np.ndarray,
    y: np.ndarray | None,
    t: tuple[float, ...],
    ids: np.ndarray | None,
    tile: int,
    devices: Sequence[jax.Device],
) -> tuple[Float[np.ndarray, "T"], int]:
    blocks = _slices(len(x), _BLOCK * tile)
    side = partial(_side, ids=ids, tile=tile)
    lse, pairs = np.full(len(t), -np.inf), 0
    for sums, count in _in_turn(_jobs(x, y, t, blocks, side, devices), _QUEUED * len(devices)):
        pairs += int(np.asarray(count, np.int64).sum())
        for k, lanes in enumerate(sums):
            total = np.asarray(lanes.total, np.float64)
            top = np.asarray(2 * t[k] if lanes.top is None else lanes.top, np.float64)
            highest = top.max(initial=-np.inf)
            if highest != -np.inf:  # which lets a NaN through
                whole = (total * np.exp(top - highest)).sum()
                part = math.log(whole) + highest if whole else -math.inf
                with np.errstate(invalid="ignore"):  # a NaN is a result like any other
                    lse[k] = np.logaddexp(lse[k], part)
    scale = 2 * np.asarray(t)
    return (lse - scale - math.log(pairs) if pairs else np.full(len(t), np.nan)), pairs


def _jobs(
    x: np.ndarray,
    y: np.ndarray | None,
    t: tuple[float, ...],
    blocks: list[slice],
    side: Callable[..., _Side],
    devices: Sequence[jax.Device],
) -> Iterator[tuple[tuple[Sums, ...], Array]]:
    """Reductions of pairs of blocks, begun as they are asked for, on one device after another."""
    turn = itertools.cycle(devices)
    for number, rows in enumerate(blocks):
        held: dict[jax.Device, _Side] = {}
        for column in range(0 if y is not None else number, len(blocks)):
            device = next(turn)
            if device not in held:
                held[device] = side(x, rows, device)
            other = held[device]
            if y is not None or column != number:
                other = side(x if y is None else y, blocks[column], device)
            sizes = held[device].place.shape[0], other.place.shape[0]
            above = y is None and column == number
            order = [(i, j) for i, j in np.ndindex(sizes) if i <= j or not above]
            yield _reduce(held[device], other, np.asarray(order), t, y is not None)


def _side(
    x: np.ndarray, rows: slice, device: jax.Device, *, ids: np.ndarray | None, tile: int
) -> _Side:
    """Rows of a set on a device, padded to whole tiles."""
    vectors = np.asarray(x[rows], np.float32)
    place = np.arange(rows.start, rows.start + len(vectors), dtype=np.int32)
    text = place if ids is None else np.asarray(ids[rows], np.int32)
    padding = -len(vectors) % tile
    place, text = (np.pad(part, (0, padding), constant_values=ABSENT) for part in (place, text))
    vectors = np.pad(vectors, ((0, padding), (0, 0))).reshape(-1, tile, x.shape[1])
    parts = vectors, place.reshape(-1, tile), text.reshape(-1, tile)
    return _Side(*jax.device_put(parts, device))


def _check_units(x: Float[np.ndarray, "N D"]) -> None:
    """Refuses vectors of another length; what is not finite, or nothing, shows in the result."""
    for rows in _slices(len(x), _BLOCK * _TILE):
        vectors = np.asarray(x[rows], np.float32)
        norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        wrong = np.flatnonzero((np.abs(norms - 1) > _NOT_UNIT) & (norms > 0))
        if len(wrong):
            raise ValueError(
                f"row {rows.start + wrong[0]} has length {norms[wrong[0]]:.6g}: divide each row by "
                "its length first"
            )


def _in_turn(jobs: Iterator[tuple], ahead: int) -> Iterator[tuple]:
    """The results in order, while the next ``ahead`` jobs are on their devices."""
    waiting: deque[tuple] = deque()
    for job in jobs:
        waiting.append(job)
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


@partial(jax.jit, static_argnames=("t", "across"))
def _reduce(
    x: _Side, y: _Side, order: Int[Array, "P 2"], t: tuple[float, ...], across: bool
) -> tuple[tuple[Sums, ...], Int[Array, "R"]]:
    """Log-sum-exp at each scale 2t, and the number of pairs, in as many lanes as a tile has rows.

    ``order`` lists the tiles: row i and column j of each.
    """
    kinds = [Reduction(2 * width, max_scale=2 * width) for width in t]
    lanes = x.place.shape[1]

    def add(carry: tuple, tile: Int[Array, "2"]) -> tuple[tuple, None]:
        sums, pairs = carry
        row, col = (jax.tree.map(itemgetter(k), side) for k, side in zip(tile, (x, y), strict=True))
        cosines = product(row.vectors, col.vectors, (1, 1))
        mask = _counted(row, col, across)
        added = []
        for one, kind in zip(sums, kinds, strict=True):
            taken = terms(cosines, jnp.float32(kind.scale), None, kind)
            added.append(one.add(jnp.where(mask, taken, kind.nothing), 1))
        sums = tuple(added)
        return (sums, pairs + mask.sum(axis=1, dtype=jnp.int32)), None

    start = tuple(Sums.empty((lanes, 1), kind) for kind in kinds)
    return jax.lax.scan(add, (start, jnp.zeros(lanes, jnp.int32)), order)[0]


def _counted(x: _Side, y: _Side, across: bool) -> Bool[Array, "R C"]:
    """Pairs of different texts that are there: i < j of one set, i != j across two."""
    before, after = x.place[:, None], y.place[None, :]
    mask = (before >= 0) & (after >= 0) & (x.text[:, None] != y.text[None, :])
    return mask & (before != after if across else before < after)


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]
