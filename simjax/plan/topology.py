"""Which accelerators a plan is for: their names, and devices that programs can be compiled for."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from simjax.errors import SimjaxError, UsageError
from simjax.plan.chips import CHIPS, Chip

if TYPE_CHECKING:
    import jax

# Without these libtpu asks the metadata server of Google's cloud who it is, and only one program
# at a time may use it.
_QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


@dataclass(frozen=True)
class Topology:
    """Some accelerators of one kind.

    Attributes:
        name: As it was asked for: `v5e:16x16`, `h100:8`.
        chip: What each of them can do.
        devices: How many there are.
    """

    name: str
    chip: Chip
    devices: int

    @property
    def compiles(self) -> bool:
        """Whether there is a compiler for it on machines without it."""
        return self.chip.platform == "tpu"


def parse(name: str) -> Topology:
    """The topology of a name: a TPU slice by its shape, GPUs by their number.

    Raises:
        UsageError: There is no such accelerator, or a slice of it has no such shape.
    """
    kind, _, shape = name.partition(":")
    if kind not in CHIPS:
        raise UsageError(
            f"--topology {name!r}: no such accelerator; choose one of {', '.join(CHIPS)}, such as "
            "v5e:16x16, v5p:4x4x8 or h100:8"
        )
    wanted = CHIPS[kind].axes or 1
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape) or shape.count("x") != wanted - 1:
        example = {1: "8", 2: "4x4", 3: "2x2x4"}[wanted]
        what = "their number" if wanted == 1 else f"the shape of a slice in {wanted} dimensions"
        raise UsageError(f"--topology {name!r}: give {what}, such as {kind}:{example}")
    return Topology(name, CHIPS[kind], math.prod(int(n) for n in shape.split("x")))


@cache
def tpu_devices(name: str) -> tuple[jax.Device, ...]:
    """The devices of a slice that is not here, for programs to be compiled for.

    Raises:
        SimjaxError: libtpu, which has the compiler, is not installed.
        UsageError: It knows no slice of that shape.
    """
    if find_spec("libtpu") is None:
        raise SimjaxError(
            f"--topology {name}: libtpu, the TPU's compiler, is not installed; "
            "`pip install --target DIR libtpu`, then PYTHONPATH=DIR simjax plan ... "
            "(or --no_compile, for formulas alone)"
        )
    for variable, value in _QUIET.items():
        os.environ.setdefault(variable, value)
    import jax
    from jax.experimental import topologies

    # A v4 chip has two cores, which are one device as they are sold.
    options: dict[str, Any] = {"chip_config_name": "megacore"} if name.startswith("v4:") else {}
    if parse(name).devices == 1:
        # Otherwise a host has four chips, and no slice is smaller.
        options["chips_per_host_bounds"] = [1, 1, 1]
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UsageError(
            f"--topology {name}: libtpu knows no such slice ({reason}); choose a shape that "
            "Google offers, such as v5e:4x4, v5e:16x16, v5p:2x2x4 or v6e:8x8"
        ) from error
    return tuple(found.devices)
