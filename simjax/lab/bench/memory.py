"""Peak memory of one contender, in a process of its own: nothing is left over from others.

Run as a module it measures one and prints a line of JSON.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simjax.errors import SimjaxError

if TYPE_CHECKING:
    from simjax.lab.bench.peers import Torch

WARM_UP = 256
"""Pairs of the warm-up, which starts thread pools and loads code."""


@dataclass(frozen=True)
class Peak:
    """Memory of one call of a contender.

    Attributes:
        growth_bytes: Peak during the call over what was in use before, with inputs in place.
        process_bytes: Peak of the whole process, libraries and inputs included; on an
            accelerator, of what is allocated on it.
        temporary_bytes: XLA's count of what the call needs, None for PyTorch.
        seconds: Time of the call.
        loss: Its value, that of a reduction too; NaN where there is none.
    """

    growth_bytes: int
    process_bytes: int
    temporary_bytes: int | None
    seconds: float
    loss: float


def measure(name: str, size: int, width: int, dtype: str) -> Peak:
    """The peak of a contender, measured in a new process.

    Raises:
        SimjaxError: The process failed, for want of memory perhaps.
    """
    command = [sys.executable, "-m", __spec__.name, name, str(size), str(width), dtype]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise SimjaxError(f"measuring the memory of {name} at {size}: {lines[-1]}")
    return Peak(**json.loads(done.stdout.splitlines()[-1]))


def _status(key: str) -> int | None:
    """A size of this process in bytes, such as VmHWM; None where there is no /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    return None


def highest() -> int:
    """Most bytes that this process has held so far."""
    import resource

    peak = _status("VmHWM")
    if peak is not None:
        return peak
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else 1024 * highest


def settle() -> int:
    """Give free memory back, forget the peak so far, and return what is in use."""
    gc.collect()
    # With another C library freed memory may hide some of the growth.
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return highest()
    return _status("VmRSS") or highest()


def _on_device() -> bool:
    import jax

    return jax.default_backend() != "cpu"


def _measure_here(name: str, size: int, width: int, dtype: str) -> Peak:
    from simjax.lab.bench import contenders, peers

    torch = peers.find_torch([]) if "PyTorch" in name else None
    warm_up = contenders.make(name, contenders.inputs(name, WARM_UP, width), dtype, torch)
    warm_up.run()
    contender = contenders.make(name, contenders.inputs(name, size, width), dtype, torch)
    before = settle()
    device = _device_memory(torch, reset=True) if _on_device() else None
    began = time.perf_counter()
    loss = contender.run()
    seconds = time.perf_counter() - began
    peak = highest()
    if device is not None:
        before, peak = device[0], _device_memory(torch, reset=False)[1]
    return Peak(peak - before, peak, contender.temporary_bytes, seconds, loss)


def _device_memory(torch: Torch | None, *, reset: bool) -> tuple[int, int]:
    """Bytes in use on the accelerator, and the most so far."""
    import jax

    if torch is not None:
        if reset:
            torch.torch.cuda.empty_cache()
            torch.torch.cuda.reset_peak_memory_stats()
        return torch.torch.cuda.memory_allocated(), torch.torch.cuda.max_memory_allocated()
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("bytes_in_use", 0), stats.get("peak_bytes_in_use", 0)


def main() -> None:
    """Measure what the command line names, and print it."""
    parser = argparse.ArgumentParser(prog="simjax.lab.bench.memory")
    parser.add_argument("name")
    parser.add_argument("size", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument("dtype")
    args = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    peak = _measure_here(args.name, args.size, args.width, args.dtype)
    print(json.dumps(asdict(peak)))


if __name__ == "__main__":
    main()
