"""Optimisers and stacked layers: statistics of each layer by itself, and rates by depth."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from simjax.train.state import is_stacked
from simjax.types import Params


def by_layer(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """A transformation that sees each layer of stacked parameters by itself.

    What ``tx`` takes over a whole leaf (a norm, a mean) it then takes over one layer of it. The
    state of stacked leaves has a leading dimension of layers throughout, counts included.
    """

    def lifted_init(params: Params) -> Any:
        return jax.vmap(tx.init)(params) if jax.tree.leaves(params) else tx.init(params)

    def lifted_update(updates: Params, state: Any, params: Any = None) -> tuple[Params, Any]:
        if not jax.tree.leaves(updates):
            return tx.update(updates, state, params)
        return jax.vmap(tx.update)(updates, state, params)

    def labels(params: Params) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "layers" if is_stacked(path) else "others", params
        )

    # The label is the name by which `is_stacked` knows that a first dimension counts layers.
    lifted = optax.GradientTransformation(lifted_init, lifted_update)
    return optax.partition({"layers": lifted, "others": tx}, labels)


def scale_by_depth(decay: float) -> optax.GradientTransformation:
    """Multiplies updates by decay^d, d being the layers above a parameter, the heads counted in.

    Of an encoder of L layers the last one has d = 1, the first d = L, the embeddings d = L + 1;
    heads and whatever else is no layer's have d = 0 (Clark et al. 2020, arXiv 2003.10555).
    """

    def scale(updates: Params, params: Params | None) -> Params:
        leaves = jax.tree_util.tree_leaves_with_path(updates if params is None else params)
        depth = max((leaf.shape[0] for path, leaf in leaves if is_stacked(path)), default=0)

        def one(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
            if is_stacked(path):
                above = jnp.arange(update.shape[0], 0, -1, dtype=jnp.float32)
                return update * (decay**above).reshape(-1, *[1] * (update.ndim - 1))
            if any(getattr(key, "key", None) == "embeddings" for key in path):
                return update * decay ** (depth + 1)
            return update

        return jax.tree_util.tree_map_with_path(one, updates)

    return optax.stateless(scale)
