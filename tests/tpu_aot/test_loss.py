"""The sharded loss compiled ahead of time for TPUs, on a machine that has none."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import P

from simjax.mesh import AXES
from simjax.objectives.config import ContrastiveConfig
from simjax.objectives.contrastive import contrastive_loss
from simjax.objectives.uniformity import Views
from simjax.ops.sharded import bytes_held, bytes_sent
from simjax.plan import collectives
from tests.tpu_aot import pods

pytestmark = pytest.mark.tpu_aot
pytest.importorskip("libtpu")

WIDTH = 768
OWN = 4096
"""Pairs of each device."""


@cache
def compiled(name: str, exchange: str | None, own: int = OWN) -> Any:
    """Value and gradient of the symmetric loss of a global batch, in bfloat16 products."""
    mesh = pods.pod(name)
    part = P(AXES)

    def local(embeddings: jax.Array, ids: jax.Array, example: jax.Array) -> Any:
        def loss(x: jax.Array) -> jax.Array:
            value, _ = contrastive_loss(
                x,
                ids,
                jnp.full(len(ids), -1),
                example,
                20.0,
                ContrastiveConfig(directions="symmetric"),
                Views(positives=1, one_distribution=True, group=1),
                dtype=jnp.bfloat16,
                exchange=exchange,
            )
            return value

        value, grads = jax.value_and_grad(loss)(embeddings)
        return jax.lax.psum(value, AXES), grads

    run = jax.shard_map(local, mesh=mesh, in_specs=(part,) * 3, out_specs=(P(), part))
    batch = own * mesh.size
    shapes = (
        jax.ShapeDtypeStruct((batch, 2, WIDTH), jnp.float32),
        jax.ShapeDtypeStruct((batch, 2), jnp.int32),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
    )
    return jax.jit(run).lower(*pods.split(shapes, mesh)).compile()


def test_a_million_pairs_on_256_chips_take_the_ring_and_less_than_a_gigabyte_each(capsys):
    ring, gathered = (compiled("v5e:16x16", exchange) for exchange in (None, "all_gather"))
    figures = {"ring": pods.gigabytes(ring), "all-gather": pods.gigabytes(gathered)}
    with capsys.disabled():
        print(f"\n{OWN * 256:,} pairs of width {WIDTH} on v5e:16x16, GB per device: {figures}")
    assert figures["ring"] < 1.0 < figures["all-gather"]
    assert "all-gather" not in collectives.largest(ring, 256)
    assert collectives.largest(gathered, 256)["all-gather"] == OWN * 256 * WIDTH


GATHERS_BY_ALL_REDUCE = {"v5p:4x4x8"}
"""Where the compiler puts each device's keys into zeros and adds: twice the bytes of a gather, and
two more copies of all keys."""

POD_SIZES = ["v5e:2x4", "v5e:16x16", "v5p:2x2x2", "v5p:4x4x8", "v6e:2x4", "v6e:16x16"]


@pytest.mark.parametrize("exchange", ["all_gather", "ring"])
@pytest.mark.parametrize("name", POD_SIZES)
def test_the_kernels_do_the_work_and_what_is_sent_and_held_is_the_formula(name, exchange):
    devices = pods.pod(name).size
    own = OWN if exchange == "ring" or devices == 8 else OWN // 8
    program = compiled(name, exchange, own)
    for kernel in ("simjax_reduce_pairs", "simjax_pull_back_pairs"):
        assert kernel in program.as_text()
    keys = own * devices
    sent = collectives.bytes_sent(program, devices)
    expected = bytes_sent(exchange, keys, WIDTH, jnp.bfloat16, devices)
    copies = 0
    if exchange == "all_gather" and name in GATHERS_BY_ALL_REDUCE:
        expected += keys // devices * (devices - 1) * WIDTH * 2
        copies = 2 * keys * WIDTH * 2
    # Ids, log-sum-exps and the loss are a few numbers for each key beside its vector.
    few = 64 * keys
    assert expected <= sum(sent.values()) <= expected + few, sent
    largest = collectives.largest(program, devices)
    assert largest["collective-permute"] == own * WIDTH
    if name not in GATHERS_BY_ALL_REDUCE:
        assert largest["all-reduce"] <= keys  # at most the columns' maxima
    assert "reduce-scatter" not in largest and "all-to-all" not in largest
    temporary = program.memory_analysis().temp_size_in_bytes
    held = bytes_held(exchange, keys, WIDTH, jnp.bfloat16, devices)
    vectors = own * WIDTH * 4  # of this device's pairs, one view, in float32
    assert temporary <= held + copies + 10 * vectors
    # Less of it where keys lie in VMEM, which is not counted.
    assert held <= 2 * temporary
