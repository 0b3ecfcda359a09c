"""The TPU kernels through the compiler of each generation, on a machine that has none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from simjax.ops import reduce_pairs
from tests.ops.cases import PLANS, Case, make
from tests.ops.test_reduce_pairs import total
from tests.tpu_aot import pods

pytest.importorskip("libtpu")


def compiled(name, plan, dtype, size=2048, width=768):
    """Value and gradient on one chip."""
    pairs = make(Case("square", size, size, width=width))
    kinds = jax.tree.map(jnp.float32, PLANS[plan](Case("square", size, size)))

    def loss(x, y, anchor_ids, key_ids, guide, kinds):
        sides = (x, y, anchor_ids, key_ids)
        return total(reduce_pairs(*sides, kinds, guide=guide, dtype=dtype))

    arguments = jax.eval_shape(lambda: (*pairs.arrays, pairs.guide, kinds))
    mesh = pods.pod(name, 1)
    sharding = jax.sharding.NamedSharding(mesh, jax.P())
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments
    )
    return jax.jit(jax.grad(loss, (0, 1, 5))).lower(*arguments).compile()


def test_the_kernels_pass_the_compiler():
    text = compiled("v5e:2x2", "and uniformity", jnp.bfloat16).as_text()
    assert text.count("tpu_custom_call") == 2


@pytest.mark.tpu_aot
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("plan", ["several scales", "sigmoid of keys", "guided"])
@pytest.mark.parametrize("name", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_every_reduction_passes_every_compiler(name, plan, dtype):
    program = compiled(name, plan, dtype)
    assert program.as_text().count("tpu_custom_call") == 2
    # No scores leave the chip.
    assert "2048,2048]" not in program.as_text()
    assert program.memory_analysis().temp_size_in_bytes < 2048 * 2048 * 4 / 2


@pytest.mark.tpu_aot
@pytest.mark.parametrize("width", [64, 384, 1024, 2048])
@pytest.mark.parametrize("name", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_every_width_that_is_said_to_fit_does(name, width):
    for dtype in (jnp.bfloat16, jnp.float32):
        program = compiled(name, "several scales", dtype, size=1100, width=width)
        assert program.as_text().count("tpu_custom_call") == 2
