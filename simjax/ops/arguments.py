"""What the operator is called with, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from simjax.ops.pairs import AnchorIds, Guide, KeyIds
from simjax.ops.reductions import Reduction

_LARGEST = 2**31 - 1


def check_arguments(
    anchors: Any,
    keys: Any,
    anchor_ids: Any,
    key_ids: Any,
    reductions: Any,
    guide: Any,
    tile: Any,
) -> None:
    """Refuses arguments of the wrong kind, shape or type, by name.

    Raises:
        ValueError: With the argument, what it is and what it should be.
    """
    _check_reductions(reductions, keys)
    _check_vectors("anchors", anchors)
    _check_vectors("keys", keys)
    if anchors.shape[1] != keys.shape[1]:
        raise ValueError(
            f"anchors have width {anchors.shape[1]} and keys {keys.shape[1]}: give equal ones"
        )
    _check_ids("anchor_ids", anchor_ids, AnchorIds, "positives", len(anchors))
    _check_ids("key_ids", key_ids, KeyIds, "partners", len(keys))
    if guide is not None:
        _check_guide(guide, len(anchors), len(keys))
    if tile is not None and not (
        isinstance(tile, Sequence) and len(tile) == 2 and all(_is_count(size) for size in tile)
    ):
        raise ValueError(f"tile {tile!r}: give rows and columns, two numbers above 0, or None")


def _is_count(size: Any) -> bool:
    return isinstance(size, int | np.integer) and bool(size > 0)


def _described(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    return type(value).__name__


def _check_vectors(name: str, vectors: Any) -> None:
    fits = getattr(vectors, "ndim", None) == 2 and bool(jnp.issubdtype(vectors.dtype, jnp.floating))
    if not fits:
        raise ValueError(
            f"{name}: an array [rows, width] of floats is needed, not {_described(vectors)}"
        )
    if not vectors.shape[0] or not vectors.shape[1]:
        raise ValueError(f"{name}: there are none ({_described(vectors)})")


def _check_ids(name: str, ids: Any, kind: type, others: str, rows: int) -> None:
    if not isinstance(ids, kind):
        raise ValueError(f"{name}: {kind.__name__} are needed, not {type(ids).__name__}")
    for field in ("example", "text", "label", others):
        value, dimensions = getattr(ids, field), 2 if field == others else 1
        wanted = f"[{rows}, any number]" if field == others else f"[{rows}]"
        if (
            getattr(value, "ndim", None) != dimensions
            or value.shape[0] != rows
            or not jnp.issubdtype(value.dtype, jnp.integer)
        ):
            raise ValueError(
                f"{name}.{field}: whole numbers {wanted} are needed, not {_described(value)}"
            )
        if (
            isinstance(value, np.ndarray)
            and value.size
            and not (value.min() >= -_LARGEST and value.max() <= _LARGEST)
        ):
            raise ValueError(
                f"{name}.{field}: ids reach beyond 32 bits, where different ones would become "
                "equal; number the texts from 0 (np.unique(..., return_inverse=True))"
            )


def _check_reductions(reductions: Any, keys: Any) -> None:
    if isinstance(reductions, Reduction) or not isinstance(reductions, Sequence):
        raise ValueError(f"reductions: a list of them is needed, not {type(reductions).__name__}")
    if not reductions:
        raise ValueError("reductions: give at least one")
    for number, kind in enumerate(reductions):
        if jnp.ndim(kind.scale):
            raise ValueError(
                f"reductions[{number}].scale: one number is needed, not {_described(kind.scale)}"
            )
        if kind.bias is not None and jnp.shape(kind.bias) not in ((), (1,), keys.shape[:1]):
            raise ValueError(
                f"reductions[{number}].bias: one number, or one for each of {keys.shape[0]} keys, "
                f"is needed, not {_described(kind.bias)}"
            )


def _check_guide(guide: Guide, anchors: int, keys: int) -> None:
    for name, rows in (("anchors", anchors), ("keys", keys)):
        vectors = getattr(guide, name)
        _check_vectors(f"guide.{name}", vectors)
        limits = getattr(guide, f"{name.removesuffix('s')}_limits")
        if vectors.shape[0] != rows or getattr(limits, "shape", None) != (rows,):
            raise ValueError(
                f"guide.{name}: {rows} vectors and as many limits are needed, not "
                f"{_described(vectors)} and {_described(limits)}"
            )
    if guide.anchors.shape[1] != guide.keys.shape[1]:
        raise ValueError("guide: its anchors and keys have different widths")
