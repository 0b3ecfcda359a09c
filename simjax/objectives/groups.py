"""The pairs of a batch in groups, between which there are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Shaped


def over_groups(run: Callable[..., Any], size: int | None, *trees: Any) -> Any:
    """`run` of each group of `size` examples, one group after the other, put together again.

    Args:
        run: From some examples to arrays that have a value for each of them, or for each view of
            each of them, view by view; and to scalars, which are added up.
        size: Examples of a group, which follow each other; None is all of them.
        trees: Arrays [n, ...] of the examples.
    """
    if size is None:
        return run(*trees)
    parts = jax.tree.map(lambda x: x.reshape(x.shape[0] // size, size, *x.shape[1:]), trees)
    found = jax.lax.map(lambda part: run(*part), parts)

    def join(x: Shaped[Array, "g ..."]) -> Shaped[Array, "..."]:
        if x.ndim == 1:
            return x.sum()
        return x.reshape(len(x), -1, size).swapaxes(0, 1).reshape(-1)

    return jax.tree.map(join, found)
