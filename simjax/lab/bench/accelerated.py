"""Peers of the loss on accelerators, and what share of the matrix units' peak each reaches.

Value and gradient of InfoNCE of one direction take 2 B^2 D operations for the scores, as many
again for each of the two gradients, and the scores once more where they are not kept: 8 B^2 D are
counted for every InfoNCE, 6 B^2 D for every sigmoid loss, whatever a contender really does.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from simjax.lab.bench.contenders import OURS, SCALE, Contender, compile_loss, make_reduction
from simjax.lab.bench.reductions import ROWS

if TYPE_CHECKING:
    from jaxtyping import Float32

    from simjax.lab.bench.peers import Torch
    from simjax.ops.dispatch import Implementation

COMPILED_TORCH, TOKAMAX = "compiled PyTorch", "tokamax"
OUR_SIGMOID, SIGLIP_KERNEL = "simjax sigmoid", "siglip-kernel"
RIVALS = {
    (OURS, TOKAMAX): 1 / 1.5,
    (OURS, COMPILED_TORCH): 1 / 1.5,
    (OUR_SIGMOID, SIGLIP_KERNEL): 1.0,
}
"""What is compared with what, and the share of its time that large batches are meant to take."""
INFONCE_OPERATIONS, SIGMOID_OPERATIONS = 8, 6
BIAS = -10.0
KERNELS: dict[str, Implementation] = {"tpu": "pallas_tpu", "gpu": "pallas_gpu"}
"""Of each platform, beside what serves all."""


def operations(name: str, size: int, width: int) -> int:
    """What is counted for one value and gradient."""
    each = SIGMOID_OPERATIONS if name in (OUR_SIGMOID, SIGLIP_KERNEL) else INFONCE_OPERATIONS
    return each * size * size * width


def peak(dtype: str, rounds: int = 20) -> float:
    """Operations per second of a large matrix product, the best of several."""
    import jax
    import jax.numpy as jnp

    size = 2048 if jax.default_backend() == "cpu" else 8192
    x = jnp.ones((size, size), dtype)
    precision = jax.lax.Precision.HIGHEST if dtype == "float32" else None
    product = jax.jit(lambda x: jnp.matmul(x, x, precision=precision))
    product(x).block_until_ready()
    best = math.inf
    for _ in range(rounds):
        start = time.perf_counter()
        product(x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def make(
    x: Float32[np.ndarray, "B 2 D"], dtype: str, torch: Torch | None, notes: list[str]
) -> dict[str, Contender]:
    """The contenders that are installed; what is missing is noted.

    Args:
        x: Embeddings of any length.
        dtype: Of the operands of the products.
        torch: PyTorch, if it is there.
        notes: Gets a line for each peer that is not.
    """
    import jax

    found = {OUR_SIGMOID: _our_sigmoid(x, dtype)}
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    implementations: list[Implementation] = ["tiled"]
    if jax.default_backend() in KERNELS:
        implementations.append(KERNELS[jax.default_backend()])
    for implementation in implementations:
        name = f"{ROWS}, {implementation}"
        try:
            found[name] = make_reduction(ROWS, unit, dtype, implementation)
        except ValueError as error:
            notes.append(f"{name} is left out: {error}")
    for name, prepare in ((TOKAMAX, _tokamax), (SIGLIP_KERNEL, _siglip_kernel)):
        try:
            found[name] = prepare(x, dtype, torch)
        except ImportError as error:
            notes.append(f"{name} is left out: {error}")
    if torch is not None:
        found[COMPILED_TORCH] = _compiled_torch(x, dtype, torch)
    return found


def sigmoid_loss(x: Any, scale: Any, bias: Any, *, dtype: str) -> Any:
    """The objective `sigmoid` of embeddings [B, 2, D], its metrics left out."""
    import jax.numpy as jnp

    from simjax.objectives.config import SigmoidConfig
    from simjax.objectives.objective import Examples
    from simjax.objectives.sigmoid import Sigmoid
    from simjax.objectives.uniformity import Views

    number = jnp.arange(x.shape[0], dtype=jnp.int32)
    ids = 2 * number[:, None] + jnp.arange(2, dtype=jnp.int32)
    views = Views(positives=1, one_distribution=True, group=1)
    examples = Examples(x, ids, jnp.full_like(number, -1), None, number, None)
    params = {"log_scale": jnp.log(scale), "score_bias": bias}
    return Sigmoid(SigmoidConfig(), views, jnp.dtype(dtype)).loss(params, examples)[0]


def _our_sigmoid(x: Any, dtype: str) -> Contender:
    scale, bias = np.float32(SCALE), np.float32(BIAS)
    return compile_loss(partial(sigmoid_loss, dtype=dtype), x, scale, bias)


def _tokamax(x: Any, dtype: str, torch: Torch | None) -> Contender:
    import jax.numpy as jnp
    from tokamax import linear_softmax_cross_entropy_loss

    from simjax.objectives.sides import unit

    def loss(x: Any) -> Any:
        vectors = unit(x)
        anchors, keys = (SCALE * vectors[:, 0]).astype(dtype), vectors[:, 1].astype(dtype)
        labels = jnp.arange(x.shape[0], dtype=jnp.int32)
        return linear_softmax_cross_entropy_loss(anchors, labels, keys.T, reduction="mean")

    return compile_loss(loss, x)


def _siglip_kernel(x: Any, dtype: str, torch: Torch | None) -> Contender:
    from siglip_kernel import fused_siglip_loss

    if torch is None or not torch.torch.cuda.is_available():
        raise ImportError("it needs PyTorch with CUDA")
    module = torch.torch
    placed = module.from_numpy(x).to(torch.device).requires_grad_(True)
    scale, bias = (
        module.tensor(value, device=torch.device, requires_grad=True)
        for value in (math.log(SCALE), BIAS)
    )

    def run() -> float:
        placed.grad = scale.grad = bias.grad = None
        vectors = module.nn.functional.normalize(placed, dim=-1).to(getattr(module, dtype))
        loss = fused_siglip_loss(vectors[:, 0], vectors[:, 1], scale, bias)
        loss.backward()
        torch.wait()
        return float(loss.detach())

    return Contender(run)


def _compiled_torch(x: Any, dtype: str, torch: Torch) -> Contender:
    from simjax.lab.bench import contenders

    return contenders.dense_torch(x, dtype, symmetric=False, torch=torch, compiled=True)
