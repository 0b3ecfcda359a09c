"""Losses and reductions to be measured.

A loss is value and gradient of InfoNCE at scale 20: it gets embeddings of any length, [B, 2, D],
makes unit vectors of them, and returns the loss with its gradient by the embeddings. Uniformity
gets unit vectors, [B, D], and reduces all their pairs. float32 products are exact ones everywhere
(no TF32).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from simjax.lab.bench.peers import Torch

if TYPE_CHECKING:
    from simjax.ops.dispatch import Implementation

SCALE = 20.0
OURS, OURS_SYMMETRIC = "simjax", "simjax symmetric"
DENSE_TORCH, DENSE_TORCH_SYMMETRIC = "dense PyTorch", "dense PyTorch symmetric"
DENSE_JAX, DENSE_JAX_SYMMETRIC = "dense JAX", "dense JAX symmetric"
NAMES = (
    OURS,
    DENSE_TORCH,
    DENSE_JAX,
    OURS_SYMMETRIC,
    DENSE_TORCH_SYMMETRIC,
    DENSE_JAX_SYMMETRIC,
)
OUR_UNIFORMITY, TORCH_UNIFORMITY = "simjax uniformity", "PyTorch uniformity"
TORCH_PRODUCTS = "PyTorch products alone"
SETS = (OUR_UNIFORMITY, TORCH_UNIFORMITY, TORCH_PRODUCTS)
"""Those that reduce the pairs of a set: the last one makes the products and drops them."""
CHUNK = 4096
"""Rows and columns of what PyTorch multiplies at a time, blocks on and above the diagonal."""


@dataclass(frozen=True)
class Contender:
    """One loss or reduction at one size, compiled, with its inputs in place.

    Attributes:
        run: Computes to the end, gradients too if there are any, and returns the value.
        temporary_bytes: What XLA's compiler says a call needs beside its arguments and results;
            None for PyTorch.
    """

    run: Callable[[], float]
    temporary_bytes: int | None = None


def embeddings(size: int, width: int, seed: int = 0) -> Float32[np.ndarray, "B 2 D"]:
    """Random anchors, and positives with a cosine of 0.6 or so to them."""
    random = np.random.default_rng(seed)
    made = random.standard_normal((size, 2, width), np.float32)
    made[:, 1] += 0.75 * made[:, 0]
    return made


def unit_embeddings(size: int, width: int) -> Float32[np.ndarray, "B 2 D"]:
    """The same at length 1."""
    made = embeddings(size, width)
    return made / np.linalg.norm(made, axis=-1, keepdims=True)


def vectors(size: int, width: int, seed: int = 0) -> Float32[np.ndarray, "B D"]:
    """Random unit vectors, not quite around zero."""
    made = np.random.default_rng(seed).standard_normal((size, width), np.float32)
    made[:, 0] += width**0.5 / 2
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


def inputs(name: str, size: int, width: int) -> Float32[np.ndarray, "..."]:
    """What a contender is given."""
    return vectors(size, width) if name in SETS else embeddings(size, width)


def make(name: str, x: Float32[np.ndarray, "..."], dtype: str, torch: Torch | None) -> Contender:
    """Prepare a contender.

    Args:
        name: One of `NAMES` or `SETS`.
        x: Its `inputs`.
        dtype: Of the operands of the products; sums, softmax and gradients are float32.
        torch: PyTorch, for those that need it.
    """
    if name == OUR_UNIFORMITY:
        return _our_uniformity(x)
    symmetric = name.endswith("symmetric")
    if "PyTorch" in name:
        if torch is None:
            raise ValueError(f"{name} without PyTorch")
        if name in SETS:
            return _torch_pairs(x, torch, reduce=name == TORCH_UNIFORMITY)
        return dense_torch(x, dtype, symmetric=symmetric, torch=torch)
    loss = _ours if name in (OURS, OURS_SYMMETRIC) else _dense_jax
    return compile_loss(partial(loss, dtype=dtype, symmetric=symmetric), x)


def make_reduction(
    name: str,
    x: Float32[np.ndarray, "B 2 D"],
    dtype: str,
    implementation: Implementation | None = None,
) -> Contender:
    """Prepare one of `simjax.lab.bench.reductions`, for unit vectors."""
    from simjax.lab.bench import reductions

    made = partial(reductions.loss, name=name, dtype=dtype, implementation=implementation)
    return compile_loss(made, x)


def compile_loss(loss: Callable[..., Any], *arguments: Any) -> Contender:
    """Prepare the value of a function of arrays with its gradients by all of them."""
    import jax

    placed = jax.device_put(arguments)
    by = tuple(range(len(arguments)))
    compiled = jax.jit(jax.value_and_grad(loss, by)).lower(*placed).compile()
    analysis = compiled.memory_analysis()

    def run() -> float:
        value, grads = compiled(*placed)
        jax.block_until_ready(grads)
        return float(value)

    return Contender(run, None if analysis is None else int(analysis.temp_size_in_bytes))


def _ours(x: Any, *, dtype: str, symmetric: bool) -> Any:
    """The objective as the training step computes it, its metrics left out."""
    import jax.numpy as jnp

    from simjax.objectives.config import ContrastiveConfig
    from simjax.objectives.contrastive import contrastive_loss
    from simjax.objectives.uniformity import Views

    size = x.shape[0]
    config = ContrastiveConfig(
        temperature=1 / SCALE, directions="symmetric" if symmetric else "forward"
    )
    example = jnp.arange(size, dtype=jnp.int32)
    loss, _ = contrastive_loss(
        x,
        2 * example[:, None] + jnp.arange(2, dtype=jnp.int32),
        jnp.full(size, -1, jnp.int32),
        example,
        SCALE,
        config,
        Views(positives=1, one_distribution=True, group=1),
        dtype=jnp.dtype(dtype),
    )
    return loss


def _dense_jax(x: Any, *, dtype: str, symmetric: bool) -> Any:
    import jax
    import jax.numpy as jnp

    unit = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    anchors, keys = (unit[:, view].astype(dtype) for view in (0, 1))
    precision = jax.lax.Precision.HIGHEST if dtype == "float32" else None
    scores = SCALE * jnp.matmul(
        anchors, keys.T, precision=precision, preferred_element_type=jnp.float32
    )

    def one_way(scores: Any) -> Any:
        return (jax.nn.logsumexp(scores, axis=1) - jnp.diagonal(scores)).mean()

    if symmetric:
        return (one_way(scores) + one_way(scores.T)) / 2
    return one_way(scores)


def dense_torch(
    x: Float32[np.ndarray, "B 2 D"],
    dtype: str,
    *,
    symmetric: bool,
    torch: Torch,
    compiled: bool = False,
) -> Contender:
    """Prepare PyTorch's cross-entropy of all scores, eager or through torch.compile.

    As in a loss's own `forward`, no name keeps the scores while gradients are made.
    """
    module = torch.torch
    functional = module.nn.functional
    placed = module.from_numpy(x).to(torch.device).requires_grad_(True)
    labels = module.arange(len(x), device=torch.device)

    def of(embeddings: Any) -> Any:
        unit = functional.normalize(embeddings, dim=-1)
        anchors, keys = (unit[:, view].to(getattr(module, dtype)) for view in (0, 1))
        scores = SCALE * (anchors @ keys.T).float()
        loss = functional.cross_entropy(scores, labels)
        if symmetric:
            loss = (loss + functional.cross_entropy(scores.T, labels)) / 2
        return loss

    if compiled:
        of = module.compile(of)

    def run() -> float:
        placed.grad = None
        loss = of(placed)
        loss.backward()
        torch.wait()
        return float(loss.detach())

    return Contender(run)


def _our_uniformity(x: np.ndarray) -> Contender:
    from simjax.ops import align_uniform

    return Contender(lambda: float(align_uniform(x).uniformity[0]))


def _torch_pairs(x: np.ndarray, torch: Torch, *, reduce: bool) -> Contender:
    module = torch.torch
    placed = module.from_numpy(x).to(torch.device)
    starts = range(0, len(x), CHUNK)

    def run() -> float:
        total = 0.0
        for top in starts:
            for left in starts[top // CHUNK :]:
                cosines = placed[top : top + CHUNK] @ placed[left : left + CHUNK].T
                if reduce:
                    terms = cosines.sub_(1.0).mul_(4.0).exp_()
                    total += float((terms.triu_(1) if left == top else terms).sum())
        torch.wait()
        pairs = len(x) * (len(x) - 1) / 2
        return math.log(total / pairs) if reduce else math.nan

    return Contender(run)
