"""The sharded loss compiled ahead of time for TPU pods, on a machine that has none."""

from __future__ import annotations

import math
import os
import re
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding

from simjax.mesh import AXES
from simjax.objectives.config import ObjectiveConfig
from simjax.objectives.contrastive import Views, contrastive_loss

pytestmark = pytest.mark.tpu_aot
pytest.importorskip("libtpu")

WIDTH = 768


@cache
def pod(name: str) -> Mesh:
    for variable in ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
        os.environ.setdefault(variable, "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    devices = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    grid = np.asarray(devices).reshape(-1, 1)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 2)


def compiled(name: str, batch: int, exchange: str | None) -> Any:
    """Value and gradient of the symmetric loss of a global batch, in bfloat16 products."""
    mesh = pod(name)
    part = P(AXES)

    def local(embeddings: jax.Array, ids: jax.Array, example: jax.Array) -> Any:
        def loss(x: jax.Array) -> jax.Array:
            value, _ = contrastive_loss(
                x,
                ids,
                jnp.full(len(ids), -1),
                example,
                20.0,
                ObjectiveConfig(directions="symmetric"),
                Views(positives=1, one_distribution=True, group=1),
                dtype=jnp.bfloat16,
                exchange=exchange,
            )
            return value

        value, grads = jax.value_and_grad(loss)(embeddings)
        return jax.lax.psum(value, AXES), grads

    run = jax.shard_map(local, mesh=mesh, in_specs=(part,) * 3, out_specs=(P(), part))
    sharding = NamedSharding(mesh, part)

    def array(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    arguments = array(batch, 2, WIDTH, dtype=jnp.float32), array(batch, 2), array(batch)
    return jax.jit(run).lower(*arguments).compile()


def sent(program: Any) -> dict[str, int]:
    """The most elements that each kind of collective carries at once."""
    names = "all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all"
    most: dict[str, int] = {}
    for shapes, kind in re.findall(rf"= (.*?) ({names})(?:-start)?\(", program.as_text()):
        for shape in re.findall(r"\w\[([\d,]*)\]", shapes):
            elements = math.prod(int(n) for n in shape.split(",") if n)
            most[kind] = max(most.get(kind, 0), elements)
    return most


def gigabytes(program: Any) -> float:
    """What each device needs, arguments and results included."""
    memory = program.memory_analysis()
    needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    return (needed + memory.output_size_in_bytes) / 1e9


def test_a_million_pairs_on_256_chips_take_the_ring_and_less_than_a_gigabyte_each(capsys):
    ring = compiled("v5e:16x16", 2**20, None)
    gathered = compiled("v5e:16x16", 2**20, "all_gather")
    figures = {"ring": gigabytes(ring), "all-gather": gigabytes(gathered)}
    with capsys.disabled():
        print(f"\n{2**20:,} pairs of width {WIDTH} on v5e:16x16, GB per device: {figures}")
    assert figures["ring"] < 1.0 < figures["all-gather"]
    own, everybody = 2**20 // 256 * WIDTH, 2**20 * WIDTH
    found = sent(ring)
    assert found["collective-permute"] == own
    assert found.get("all-gather", 0) == found.get("reduce-scatter", 0) == 0
    assert found["all-reduce"] == 1
    found = sent(gathered)
    assert found["all-gather"] == everybody
    assert found["collective-permute"] == own  # the sums of the key gradients
    assert found["all-reduce"] < everybody / WIDTH + 1
