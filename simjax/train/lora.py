"""Adapters of low rank beside frozen kernels (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from simjax.errors import UsageError
from simjax.types import Params

ADAPTERS = "adapters"
"""Where the model's parameters hold them, beside `encoder`."""
FROZEN = "encoder.*"
"""What is not trained where there are adapters; heads behind the pooling are."""


@dataclass(frozen=True)
class LoraConfig:
    """A product of two narrow matrices is trained in place of each kernel.

    The kernel that is used is `kernel + alpha / rank * A B`, with A [I, rank] and B [rank, O].
    It is merged into the kernel where the model is evaluated and exported.

    Attributes:
        rank: Columns of A.
        alpha: Scale; with the rank it sets how fast adapters learn.
        kernels: Patterns of the kernels that get one, such as `encoder.layers.qkv`. Queries, keys
            and values share an A.
    """

    rank: int = 8
    alpha: float = 16.0
    kernels: tuple[str, ...] = ("encoder.layers.*",)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError(f"model.lora.rank is {self.rank}: give at least 1")
        if not self.alpha > 0:
            raise UsageError(f"model.lora.alpha is {self.alpha}: give a number above 0")


def with_adapters(model: Params, config: LoraConfig | None, seed: int) -> Params:
    """The model's parameters with adapters, if there are to be any, that change nothing yet.

    A is uniform in +-1/sqrt(I), B is 0, as in the paper's code.

    Raises:
        UsageError: A pattern matches no kernel, or the rank is not below a kernel's sizes.
    """
    if config is None:
        return model
    unused, key = set(config.kernels), jax.random.key(seed)
    adapters: dict[str, dict[str, Array]] = {}
    for path, kernel in jax.tree.leaves_with_path({"encoder": model["encoder"]}):
        keys = [entry.key for entry in path]
        name = ".".join(keys[:-1])
        hits = [pattern for pattern in config.kernels if fnmatchcase(name, pattern)]
        if keys[-1] != "kernel" or not hits:
            continue
        unused.difference_update(hits)
        stack = kernel.shape[: 1 if "layers" in keys else 0]
        rows, *out = kernel.shape[len(stack) :]
        columns = math.prod(out)
        if config.rank >= min(rows, columns):
            raise UsageError(
                f"model.lora.rank is {config.rank} and {name} has a kernel of {rows} x {columns}: "
                "give a rank below both"
            )
        bound = 1 / math.sqrt(rows)
        own = jax.random.fold_in(key, len(adapters))
        a = jax.random.uniform(own, (*stack, rows, config.rank), jnp.float32, -bound, bound)
        adapters[name] = {"lora_a": a, "lora_b": jnp.zeros((*stack, config.rank, *out))}
    if unused:
        raise UsageError(f"model.lora.kernels: {sorted(unused)[0]!r} matches no kernel")
    return model | {ADAPTERS: _nested(adapters)}


def _nested(flat: dict[str, dict[str, Array]]) -> Params:
    """By the keys of the path, so that adapters of stacked layers are known as stacked."""
    tree: Params = {}
    for name, leaves in flat.items():
        place = tree
        for key in name.split("."):
            place = place.setdefault(key, {})
        place |= leaves
    return tree


def merged(model: Params, config: LoraConfig | None) -> Params:
    """The model's parameters with each adapter's product added to its kernel."""
    if config is None:
        return model
    scale = config.alpha / config.rank

    def join(part: Any, adapter: Any) -> Any:
        if "lora_a" in adapter:
            a, b = adapter["lora_a"], adapter["lora_b"]
            wide = b.reshape(*a.shape[:-2], b.shape[a.ndim - 2], -1)
            product = jnp.matmul(a, wide, precision=jax.lax.Precision.HIGHEST)
            kernel = part["kernel"]
            return part | {"kernel": kernel + scale * product.reshape(kernel.shape)}
        return {key: join(x, adapter[key]) if key in adapter else x for key, x in part.items()}

    rest = {key: part for key, part in model.items() if key != ADAPTERS}
    return join(rest, model[ADAPTERS])
