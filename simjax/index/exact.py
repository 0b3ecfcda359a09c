"""Exact search on all devices: keys pass through them in parts, the best of each query stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import P
from jax.sharding import NamedSharding
from jaxtyping import Float32, Int, Shaped

from simjax.errors import SimjaxError
from simjax.mesh import MeshConfig, batch_spec, make_mesh
from simjax.ops.top_k import Found, Similarity, nothing_found, update_top_k

PART_BYTES = 1 << 26
"""Bytes of keys that a device holds at a time, where they do not stay there."""
RESIDENT_BYTES = 1 << 30
"""Keys of up to so many bytes per device stay there between searches."""
QUERIES = 1 << 16
"""Queries for which the keys are passed through once."""
QUERY_BLOCK = 1024
MOST_KEYS = 2**31 - 1


class Hits(NamedTuple):
    """The best rows of each query, best first, equal scores by row.

    Attributes:
        scores: Their scores.
        rows: Their numbers; -1, with score -inf, where there are no more.
    """

    scores: Float32[np.ndarray, "Q k"]
    rows: Int[np.ndarray, "Q k"]


def tile_of(k: int) -> int:
    """Keys scored at a time: picking the best few out of more costs more than it saves."""
    return 1 << min(14, max(10, (32 * k - 1).bit_length()))


@dataclass(frozen=True)
class _Shape:
    """How keys are cut: parts of `local` keys for each of the devices, in tiles."""

    devices: int
    local: int
    tile: int

    @property
    def part(self) -> int:
        return self.devices * self.local


class ExactIndex:
    """Keys in memory or on disk, and the search in them."""

    def __init__(
        self,
        keys: Shaped[np.ndarray, "N W"],
        similarity: Similarity = "dot",
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        """Take the keys; a memory map is read when it is searched.

        Args:
            keys: See `simjax.ops.top_k.score_pairs`.
            similarity: See there.
            devices: Which devices share the keys; None takes the default one.

        Raises:
            SimjaxError: There are more keys than int32 counts.
        """
        if len(keys) > MOST_KEYS:
            raise SimjaxError(f"{len(keys):,} embeddings: at most {MOST_KEYS:,} can be searched")
        self._keys, self._similarity = keys, similarity
        self._devices = len(devices or (None,))
        self._resident: tuple[_Shape, list[jax.Array]] | None = None
        self._steps: dict[int, Callable[..., Found]] = {}
        self._split = self._whole = None
        if self._devices > 1:
            self._mesh = make_mesh(MeshConfig(), list(devices or ()))
            self._split = NamedSharding(self._mesh, batch_spec())
            self._whole = NamedSharding(self._mesh, P())

    def search(
        self,
        queries: Shaped[np.ndarray, "Q W"],
        k: int,
        advance: Callable[[int], None] = lambda queries: None,
    ) -> Hits:
        """The k best keys of each query; all of them if they are fewer.

        Scores are float32; memory is that of a part of the keys, a tile of scores, and the result.

        Args:
            queries: See `simjax.ops.top_k.score_pairs`.
            k: How many.
            advance: Told of every number of queries done.
        """
        k = min(k, len(self._keys))
        hits = Hits(np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64))
        if k == 0:
            return hits
        for start in range(0, len(queries), QUERIES):
            group = queries[start : start + QUERIES]
            for place, found in self._group(group, k):
                some = slice(start + place, start + place + len(found.scores))
                hits.scores[some], hits.rows[some] = found
                advance(len(found.scores))
        return hits

    def _group(self, queries: np.ndarray, k: int) -> Iterator[tuple[int, Hits]]:
        shape = self._shape(k)
        step = self._step(shape.tile)
        size = min(QUERY_BLOCK, 1 << (len(queries) - 1).bit_length())
        starts = range(0, len(queries), size)
        found = [self._put(self._nothing(size, k), split=True) for _ in starts]
        blocks = [_pad(queries[start : start + size], size) for start in starts]
        if self._whole is not None:
            blocks = [jax.device_put(block, self._whole) for block in blocks]
        for number, part in enumerate(self._parts(shape)):
            first = number * shape.part + shape.local * np.arange(shape.devices, dtype=np.int64)
            count = np.clip(len(self._keys) - first, 0, shape.local).astype(np.int32)
            # A device without keys in this part is told of none; its number is not used.
            bounds = self._put((np.minimum(first, MOST_KEYS).astype(np.int32), count), split=True)
            for place, block in enumerate(blocks):
                found[place] = step(found[place], block, part, *bounds)
        for start, block in zip(starts, found, strict=True):
            taken = min(size, len(queries) - start)
            yield start, _merge(np.asarray(block.scores), np.asarray(block.keys), k, taken)

    def _shape(self, k: int) -> _Shape:
        share = max(1, -(-len(self._keys) // self._devices))
        tile = min(tile_of(k), 1 << (share - 1).bit_length())
        bytes_of_key = self._keys.itemsize * self._keys.shape[1]
        fitting = max(1, PART_BYTES // (bytes_of_key * tile)) * tile
        return _Shape(self._devices, min(fitting, -(-share // tile) * tile), tile)

    def _parts(self, shape: _Shape) -> Iterator[jax.Array]:
        if self._resident is not None and self._resident[0] == shape:
            yield from self._resident[1]
            return
        stays = self._keys.nbytes <= self._devices * RESIDENT_BYTES
        kept: list[jax.Array] = []
        for start in range(0, len(self._keys), shape.part):
            part = self._put(_pad(self._keys[start : start + shape.part], shape.part), split=True)
            if stays:
                kept.append(part)
            yield part
        if stays:
            self._resident = (shape, kept)

    def _nothing(self, queries: int, k: int) -> Found:
        found = nothing_found(queries, k)
        return jax.tree.map(
            lambda x: np.broadcast_to(np.asarray(x), (self._devices, *x.shape)), found
        )

    def _put(self, tree: Any, *, split: bool) -> Any:
        return jax.device_put(tree, self._split if split else self._whole)

    def _step(self, tile: int) -> Callable[..., Found]:
        if tile not in self._steps:
            update = partial(_update, tile=tile, similarity=self._similarity)
            if self._split is not None:
                split = batch_spec()
                update = jax.shard_map(
                    update,
                    mesh=self._mesh,
                    in_specs=(split, P(), split, split, split),
                    out_specs=split,
                )
            self._steps[tile] = jax.jit(update)
        return self._steps[tile]


def _update(
    found: Found,
    queries: jax.Array,
    keys: jax.Array,
    first: jax.Array,
    count: jax.Array,
    *,
    tile: int,
    similarity: Similarity,
) -> Found:
    """This device's share of a step: of everything but the queries, the one that it holds."""
    mine = Found(found.scores[0], found.keys[0])
    best = update_top_k(mine, queries, keys, first[0], count[0], tile=tile, similarity=similarity)
    return Found(best.scores[None], best.keys[None])


def _pad(rows: np.ndarray, size: int) -> np.ndarray:
    if len(rows) == size:
        return np.ascontiguousarray(rows)
    padded = np.zeros((size, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    return padded


def _merge(scores: np.ndarray, keys: np.ndarray, k: int, taken: int) -> Hits:
    """The best of all devices' best."""
    scores = np.moveaxis(scores, 0, 1)[:taken].reshape(taken, -1)
    rows = np.moveaxis(keys, 0, 1)[:taken].reshape(taken, -1).astype(np.int64)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return Hits(np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1))
