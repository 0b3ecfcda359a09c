"""What accelerators can do, by their makers' published figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Chip:
    """One accelerator, which JAX shows as one device.

    Attributes:
        name: As topologies are named.
        platform: What programs for it are lowered for.
        bfloat16: Dense products of bfloat16, operations per second.
        float32: The same of float32 as XLA computes it by default (one bfloat16 pass on TPUs,
            TF32 on GPUs).
        memory: Bytes of its HBM.
        memory_bandwidth: Bytes per second to and from it.
        links: Bytes per second that it sends to others, over all of its links together.
        per_host: Devices of a process, where a machine has so many.
        cores: Tensor cores of a TPU, of which the pair kernels use one (`simjax.ops.pallas_tpu`).
        axes: Of the torus that TPUs are linked to: a chip has two links on each, one for each way.
            0 where a switch is between all of them, as NVSwitch is.
        source: Where the figures are from.
    """

    name: str
    platform: Literal["tpu", "gpu"]
    bfloat16: float
    float32: float
    memory: float
    memory_bandwidth: float
    links: float
    per_host: int
    source: str
    cores: int = 1
    axes: int = 0

    def peak(self, dtype: str) -> float:
        """Operations per second of products of ``dtype``."""
        return self.bfloat16 if dtype == "bfloat16" else self.float32

    @property
    def link(self) -> float:
        """Bytes per second that it sends to one other: over one link of a torus, or by a switch."""
        return self.links / (2 * self.axes) if self.axes else self.links


def _tpu(
    name: str,
    teraflops: float,
    memory: float,
    bandwidth: float,
    links: float,
    cores: int,
    axes: int,
) -> Chip:
    source = f"cloud.google.com/tpu/docs/{name}"
    peak, per_second = teraflops * 1e12, (bandwidth * 1e9, links * 1e9)
    return Chip(name, "tpu", peak, peak, memory, *per_second, 4, source, cores, axes)


def _gpu(name: str, teraflops: float, memory: float, bandwidth: float, links: float) -> Chip:
    source = f"NVIDIA's data sheet of the {name.upper()} (SXM)"
    bfloat16, float32 = teraflops * 1e12, teraflops * 0.5e12
    return Chip(name, "gpu", bfloat16, float32, memory, bandwidth * 1e9, links * 1e9, 8, source)


# Links: Google states both directions together, 400 (v5e), 800 (v6e) and 1,200 (v5p) GB/s for each
# chip; half of that is sent. For v4 they are 2,400 Gbit/s. NVLink likewise: 900 GB/s both ways on
# Hopper, 600 on an A100.
CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        _tpu("v4", 275, 32 * 2**30, 1200, 300, 2, 3),
        _tpu("v5e", 197, 16 * 2**30, 819, 200, 1, 2),
        _tpu("v5p", 459, 95 * 2**30, 2765, 600, 2, 3),
        _tpu("v6e", 918, 32 * 2**30, 1638, 400, 1, 2),
        _gpu("a100", 312, 80e9, 2039, 300),
        _gpu("h100", 989, 80e9, 3350, 450),
        _gpu("h200", 989, 141e9, 4800, 450),
    )
}
