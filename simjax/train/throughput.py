"""How busy the devices are: operations of a step, their peak, the share reached, and memory.

Counted are the operations that the mathematics asks for, once each (Chowdhery et al. 2022, PaLM,
arXiv 2204.02311, appendix B): what is computed again in the backward pass, and padding, count as
time lost.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from simjax.models.sentence_model import SentenceModel
from simjax.objectives.config import ContrastiveConfig, VaeConfig
from simjax.train.config import RunConfig


class EncoderShape(Protocol):
    """What the count needs to know of an encoder."""

    @property
    def num_layers(self) -> int:
        """Layers of the stack."""

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""

    @property
    def intermediate_size(self) -> int:
        """Width inside the feed-forward part."""

    @property
    def kernels_in(self) -> int:
        """Features of its first layer: twice that width where there are gates."""


def matmul_parameters(shape: EncoderShape) -> int:
    """Weights that every token is multiplied by: N (4 H^2 + 2 H F), or 3 H F with gates.

    N layers of width H with a feed-forward width of F. Embedding tables are looked up, and biases
    and norms are no products.
    """
    width = shape.hidden_size
    return shape.num_layers * (
        4 * width * width + width * (shape.kernels_in + shape.intermediate_size)
    )


def encoder_operations(
    shape: EncoderShape, tokens: float, row_length: int, *, training: bool = True
) -> float:
    """Floating-point operations for ``tokens`` tokens in rows of ``row_length``.

    Forward, a token costs 2 P for P `matmul_parameters` and 4 N L H for attention scores and
    their weighted sum over its row of L; backward costs twice that: 6 P + 12 N L H in all (PaLM,
    appendix B). Attention is counted over the whole row, which is what packed rows compute.

    Args:
        shape: the encoder.
        tokens: real tokens, so that padding counts as time lost.
        row_length: length L of the packed rows.
        training: forward and backward; False counts the forward pass alone.
    """
    attention = 4 * shape.num_layers * row_length * shape.hidden_size
    forward = tokens * (2 * matmul_parameters(shape) + attention)
    return 3 * forward if training else forward


def head_operations(hidden: int, width: int, vocabulary: int, tokens: float) -> float:
    """Operations of a language model's head for so many predicted tokens, forward and backward.

    A dense layer from the hidden size H to the table's width W and a product with the table of V
    rows: 6 (H W + W V) a token.
    """
    return 6.0 * tokens * width * (hidden + vocabulary)


def pair_operations(anchors: int, keys: int, width: int) -> float:
    """Operations of the scores of ``anchors`` x ``keys`` pairs of ``width``, and their gradient.

    One product forward (2 B N D) and two backward (4 B N D); scores that a tiled backward pass
    computes again are not counted.
    """
    return 6.0 * anchors * keys * width


@dataclass(frozen=True)
class Peak:
    """The most operations per second that something can do, and how that is known."""

    operations_per_second: float
    source: Literal["published", "measured"]


# Dense figures of one jax device, in 1e12 operations per second: bfloat16, then float32 as XLA
# computes it by default, which is TF32 on NVIDIA and one bfloat16 pass on TPUs. NVIDIA's figures
# with sparsity are twice as high. The first entry found in `device_kind`, in lower case, holds.
# Sources: NVIDIA's data sheets of A100 (80 GB, 2021), H100 (2023), H200 (2024), L4, L40, L40S;
# cloud.google.com/tpu/docs/system-architecture-tpu-vm (a device is half a chip on v2 and v3).
_PEAKS: tuple[tuple[str, float, float], ...] = (
    ("h200", 989.0, 494.5),
    ("h100 pcie", 756.0, 378.0),
    ("h100 nvl", 835.0, 417.5),
    ("h100", 989.0, 494.5),
    ("a100", 312.0, 156.0),
    ("l40s", 362.0, 183.0),
    ("l40", 181.0, 90.5),
    ("nvidia l4", 121.0, 60.0),
    ("tpu v6 lite", 918.0, 918.0),
    ("tpu v6e", 918.0, 918.0),
    ("tpu v5 lite", 197.0, 197.0),
    ("tpu v5e", 197.0, 197.0),
    ("tpu v5", 459.0, 459.0),
    ("tpu v4", 275.0, 275.0),
    ("tpu v3", 61.5, 61.5),
    ("tpu v2", 22.5, 22.5),
)


def published_peak(device_kind: str, dtype: DTypeLike) -> float | None:
    """Peak of one device of that kind for products of ``dtype``, in operations per second.

    None where it is not in the table, or is neither of the types bfloat16 and float32.
    """
    names = {"bfloat16": 0, "float32": 1}
    column = names.get(jnp.dtype(dtype).name)
    kind = device_kind.lower()
    for name, *figures in _PEAKS:
        if name in kind and column is not None:
            return figures[column] * 1e12
    return None


def measured_peak(device: jax.Device, dtype: DTypeLike, *, size: int = 1024) -> float:
    """The best rate of a few square products of ``size`` on ``device``, operations per second."""
    operand = jax.device_put(jnp.ones((size, size), dtype), device)
    product = jax.jit(lambda x: jnp.dot(x, x, preferred_element_type=jnp.float32))
    product(operand).block_until_ready()
    best = float("inf")
    for _ in range(8):
        began = time.perf_counter()
        product(operand).block_until_ready()
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best


def peak(devices: Sequence[jax.Device], dtype: DTypeLike) -> Peak:
    """What ``devices`` can do together.

    Published figures where the kind is known. Otherwise a product is measured on one of this
    process's devices: CPU devices of a process share its cores, so they count once per process;
    others count one by one. The share of a measured peak says how the step compares with XLA's
    own matrix product, not with the silicon.

    Args:
        devices: all devices of the mesh, those of other processes included.
        dtype: the type that the encoder computes in.
    """
    figures = [published_peak(device.device_kind, dtype) for device in devices]
    known = [figure for figure in figures if figure is not None]
    if known and len(known) == len(figures):
        return Peak(sum(known), "published")
    mine = [device for device in devices if device.process_index == jax.process_index()]
    rate = measured_peak(mine[0], dtype)
    if mine[0].platform == "cpu":
        return Peak(rate * len({device.process_index for device in devices}), "measured")
    return Peak(rate * len(devices), "measured")


def mfu(operations: float, seconds: float, peak: Peak) -> float:
    """Model FLOP/s utilisation: operations / seconds / peak, 1 at best (PaLM, appendix B)."""
    return operations / seconds / peak.operations_per_second


@dataclass(frozen=True)
class Memory:
    """Bytes in use now and at most so far; on a CPU both are the resident set of the process."""

    in_use: int
    peak: int
    source: Literal["device", "process"]


def memory(devices: Sequence[jax.Device] | None = None) -> Memory:
    """Reads the memory of the fullest of ``devices`` (default: all of this process).

    Devices that keep no count (CPUs) give the resident set of this process instead.
    """
    stats: list[dict[str, Any]] = []
    for device in jax.local_devices() if devices is None else devices:
        counts = device.memory_stats()
        if counts and "bytes_in_use" in counts:
            stats.append(counts)
    if not stats:
        return _resident()
    used = max(int(counts["bytes_in_use"]) for counts in stats)
    most = max(int(counts.get("peak_bytes_in_use", counts["bytes_in_use"])) for counts in stats)
    return Memory(used, most, "device")


def _resident() -> Memory:
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    most *= 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kibibytes elsewhere
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        now = pages * resource.getpagesize()
    except OSError:
        now = most  # no /proc: the most so far is all that is known
    return Memory(now, max(now, most), "process")


class Window:
    """Time and work since the last line of metrics."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Forgets what was added."""
        self.began = time.perf_counter()
        self.waited = self.compiled = 0.0
        self.examples = self.tokens = self.steps = 0
        self.fill = 0.0

    def add(self, examples: int, tokens: int, fill: float) -> None:
        """Adds a step: its examples, its real tokens, and these over the tokens computed."""
        self.steps += 1
        self.examples += examples
        self.tokens += tokens
        self.fill += fill

    def figures(self, operations: float, peak: Peak) -> dict[str, float]:
        """Speeds of these steps, whose mathematics asks for so many operations."""
        seconds = max(time.perf_counter() - self.began - self.compiled, 1e-9)
        return {
            "pairs_per_second": self.examples / seconds,
            "tokens_per_second": self.tokens / seconds,
            "fill": self.fill / max(self.steps, 1),
            "data_wait": self.waited / seconds,
            "mfu": mfu(operations, seconds, peak),
        }


def operations(
    config: RunConfig, model: SentenceModel, window: Window, views: int, encodings: int
) -> float:
    """What the mathematics asks for in the steps of a window.

    Args:
        config: Of the run.
        model: Its encoder.
        window: The steps.
        views: Texts of an example.
        encodings: Times that every text is encoded, for the objective.
    """
    objective, data, shape = config.objective, config.data, model.config
    found = encodings * encoder_operations(shape, window.tokens, data.row_length)
    head = (shape.hidden_size, shape.embedding_width, shape.vocab_size)
    if objective.mlm is not None:
        masked = objective.mlm.rate * window.tokens
        found += found / encodings + head_operations(*head, masked)
    if objective.seq2seq is not None or isinstance(objective, VaeConfig):
        found += head_operations(*head, window.tokens / 2)
    if not isinstance(objective, ContrastiveConfig):
        return found
    keys = data.batch_size * (views - 1)
    return found + window.steps * pair_operations(data.batch_size, keys, model.embedding_size)
