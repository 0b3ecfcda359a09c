"""What a benchmark ran on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simjax.train.config import Dtype

LIBRARIES = ("jax", "torch", "transformers", "sentence-transformers")


def share_accelerator() -> None:
    """Keep JAX from taking most of an accelerator's memory; before JAX's first use of it."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_info(key: str) -> str:
    """A field of the first processor in /proc/cpuinfo; empty where there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def fast_dtypes() -> tuple[Dtype, ...]:
    """Types whose products are fast here: bfloat16 needs an accelerator or AVX512-BF16."""
    import jax

    if jax.default_backend() != "cpu" or "avx512_bf16" in _cpu_info("flags").split():
        return ("float32", "bfloat16")
    return ("float32",)


def out_of_memory(error: Exception) -> bool:
    """Whether that is what a library of contenders has failed of."""
    told = str(error)
    return (
        isinstance(error, MemoryError)
        or "RESOURCE_EXHAUSTED" in told
        or "out of memory" in told.lower()
    )


def crowded() -> str:
    """A note where other jobs were keeping the cores busy; empty on a quiet machine.

    Thread pools do not suffer alike from that: PyTorch's OpenMP regions wait for their slowest
    thread, so ratios come out better for JAX than they are.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load < 0.5 * cores():
        return ""
    return (
        f"the machine was busy before this began (load average {load:.1f} on {cores()} cores): "
        "repeat on a quiet one before quoting ratios"
    )


def describe() -> dict[str, Any]:
    """Device, processor, cores and versions."""
    import jax

    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            versions[library] = "none"
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "processor": _cpu_info("model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "Python": platform.python_version(),
        **versions,
    }
