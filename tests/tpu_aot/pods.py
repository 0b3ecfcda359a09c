"""Programs compiled for TPUs that are not here."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import numpy as np
from jax import P
from jax.sharding import AxisType, Mesh, NamedSharding

from simjax.mesh import AXES
from simjax.plan.topology import tpu_devices


@cache
def pod(name: str, devices: int | None = None) -> Mesh:
    """The devices of a slice, or the first of them, as a mesh."""
    found = tpu_devices(name)
    return Mesh(np.asarray(found[:devices]).reshape(-1, 1), AXES, axis_types=(AxisType.Auto,) * 2)


def split(tree: Any, mesh: Mesh) -> Any:
    """Arrays' shapes, split over all devices."""
    sharding = NamedSharding(mesh, P(AXES))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def gigabytes(program: Any) -> float:
    """What each device needs, arguments and results included."""
    memory = program.memory_analysis()
    needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    return (needed + memory.output_size_in_bytes) / 1e9
