"""Programs compiled for TPUs that are not here, and what their text says they send."""

from __future__ import annotations

import math
import os
import re
from functools import cache
from typing import Any

import jax
import numpy as np
from jax import P
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding

from simjax.mesh import AXES

SIZES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1}
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")


@cache
def pod(name: str, devices: int | None = None) -> Mesh:
    """The devices of a slice, or the first of them, as a mesh."""
    for variable in ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
        os.environ.setdefault(variable, "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    found = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
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


def largest(program: Any) -> dict[str, int]:
    """The most elements that each kind of collective carries at once."""
    most: dict[str, int] = {}
    for kind, arrays, _ in _collectives(program.as_text()):
        for _, elements in arrays:
            most[kind] = max(most.get(kind, 0), elements)
    return most


def bytes_sent(program: Any, devices: int) -> dict[str, float]:
    """What each device sends in one run, by kind of collective, loops counted as they turn."""
    total: dict[str, float] = {}
    for kind, arrays, turns in _collectives(program.as_text()):
        size = sum(SIZES[dtype] * elements for dtype, elements in arrays)
        share = {
            "all-gather": (devices - 1) / devices,
            "all-reduce": 2 * (devices - 1) / devices,
            "reduce-scatter": devices - 1,
        }
        total[kind] = total.get(kind, 0) + turns * size * share.get(kind, 1)
    return total


def _collectives(text: str) -> list[tuple[str, list[tuple[str, int]], int]]:
    """Each collective: its kind, its results as (dtype, elements), and how often it runs."""
    computations = dict(re.findall(r"^(?:ENTRY )?(%\S+) \(.*?\{$(.*?)^\}", text, re.M | re.S))
    turns = {}
    for condition, body in re.findall(r"condition=(%[^,\s]+), body=(%[^,\s]+)", text):
        (count,) = re.findall(r"s32\[\]\S* constant\(([1-9]\d*)\)", computations[condition])
        turns[body] = int(count)
    found = []
    for name, lines in computations.items():
        for shapes, kind, start in re.findall(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(", lines):
            arrays = [
                (dtype, math.prod(int(n) for n in shape.split(",") if n))
                for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
            ]
            if start:  # it lists operands, then results, then what it is tracked by
                arrays = [(d, n) for d, n in arrays if d != "u32"]
                arrays = arrays[len(arrays) // 2 :]
            found.append((kind, arrays, turns.get(name, 1)))
    return found
