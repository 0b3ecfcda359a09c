"""Which parameters are trained, by patterns over their names; the others stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool

from simjax.errors import UsageError
from simjax.train.state import is_stacked
from simjax.types import Params


def names_of(path: tuple[Any, ...], leaf: Any) -> list[str]:
    """What a parameter is called in patterns; one of stacked layers has a name for each layer.

    `encoder.embeddings.word.embedding`, `encoder.layers.3.qkv.kernel`, counted from 0. Those of a
    second encoder are called as the first's, so that a pattern means both.
    """
    keys = [jax.tree_util.keystr((key,), simple=True) for key in path]
    if keys[0] in ("model", "other"):
        keys = keys[1:]
    if not is_stacked(path):
        return [".".join(keys)]
    place = keys.index("layers") + 1
    return [".".join([*keys[:place], str(n), *keys[place:]]) for n in range(leaf.shape[0])]


def trained_mask(params: Params, frozen: Sequence[str]) -> Any:
    """For each leaf whether it is trained: one truth value, or one for each layer.

    Args:
        params: All parameters, or their shapes.
        frozen: Patterns of names that are not trained; `*` stands for any text, `[0-5]` for one
            of these characters.

    Raises:
        UsageError: A pattern matches nothing, or all parameters are frozen.
    """
    unused = set(frozen)

    def is_trained(name: str) -> bool:
        hits = [pattern for pattern in frozen if fnmatchcase(name, pattern)]
        unused.difference_update(hits)
        return not hits

    def one(path: tuple[Any, ...], leaf: Any) -> Bool[np.ndarray, "*L"]:
        trained = np.asarray([is_trained(name) for name in names_of(path, leaf)])
        return trained if 0 < trained.sum() < trained.size else np.asarray(trained.any())

    mask = jax.tree_util.tree_map_with_path(one, params)
    if unused:
        example = names_of(*jax.tree.leaves_with_path(params)[-1])[0]
        raise UsageError(
            f"train.freeze: {sorted(unused)[0]!r} matches no parameter; names are such as {example}"
        )
    if not any(leaf.any() for leaf in jax.tree.leaves(mask)):
        raise UsageError("train.freeze: no parameter is left to train")
    return mask


def count(params: Params, mask: Any) -> int:
    """How many numbers are trained."""

    def one(m: Bool[np.ndarray, "*L"], leaf: Any) -> int:
        return int(leaf.size * m.mean())

    return sum(jax.tree.leaves(jax.tree.map(one, mask, params)))


def pick(tree: Any, mask: Any) -> Any:
    """What is trained of a tree like the parameters; None in place of the rest."""
    return jax.tree.map(lambda m, x: x if m.any() else None, mask, tree)


def put_back(picked: Any, mask: Any, whole: Params) -> Params:
    """The parameters with what was picked of them in its place."""
    return jax.tree.map(lambda m, x, old: x if m.any() else old, mask, picked, whole)


def hold_layers(tree: Any, mask: Any) -> Any:
    """Zeros for the frozen layers of gradients or updates that were picked."""

    def one(m: Bool[np.ndarray, "*L"], x: jax.Array | None) -> jax.Array | None:
        if x is None or m.ndim == 0:
            return x
        return jnp.where(m.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros((), x.dtype))

    return jax.tree.map(one, mask, tree)


def only(tx: optax.GradientTransformation, mask: Any) -> optax.GradientTransformation:
    """An optimiser that keeps no state for frozen parameters, and leaves them where they are.

    It takes gradients of what is trained, as `pick` leaves them, and whole parameters; it gives
    updates of all, zeros for what is frozen.
    """

    def update(grads: Any, state: Any, params: Params) -> tuple[Params, Any]:
        updates, state = tx.update(grads, state, pick(params, mask))
        zeros = jax.tree.map(jnp.zeros_like, params)
        return put_back(hold_layers(updates, mask), mask, zeros), state

    return optax.GradientTransformation(lambda params: tx.init(pick(params, mask)), update)
