import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P

from simjax.mesh import MeshConfig, batch_sharding, make_mesh
from simjax.ops import pair_lse
from tests.ops.cases import Case, make

pytestmark = pytest.mark.usefixtures("strict_promotion")
CASE = Case("square", 64, 64, duplicates=True)


def on_mesh(data, fsdp, scale=20.0, columns=True):
    mesh = make_mesh(MeshConfig(data, fsdp), jax.devices()[: data * fsdp])
    x, y, anchor_ids, key_ids = jax.device_put(make(CASE).arrays, batch_sharding(mesh))
    part = P(("data", "fsdp"))
    weight = jax.device_put(jnp.cos(jnp.arange(64, dtype=jnp.float32)), batch_sharding(mesh))

    def local(x, y, anchor_ids, key_ids, weight, scale):
        scale = jax.lax.pcast(scale, ("data", "fsdp"), to="varying")

        def loss(x, y, scale):
            options = {"max_scale": 100.0 if scale_is_large else 20.0, "columns": columns}
            stats = pair_lse(x, y, anchor_ids, key_ids, scale, **options)
            value = (weight * stats.row).sum()
            value += (weight * stats.col).sum() if columns else 0.0
            return value, stats

        (value, stats), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(x, y, scale)
        sums = jax.lax.psum((value, grads[2], stats.potential), ("data", "fsdp"))
        return sums, stats.row, stats.col, grads[:2]

    scale_is_large = scale > 40
    run = jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(part, part, part, part, part, P()),
            out_specs=(P(), part, part, part),
        )
    )
    args = (x, y, anchor_ids, key_ids, weight, jnp.float32(scale))
    return jax.tree.map(np.asarray, run(*args)), run.lower(*args).compile().as_text()


@pytest.mark.parametrize("scale", [20.0, 60.0])
@pytest.mark.parametrize("shape", [(2, 1), (8, 1), (1, 4), (2, 4)])
def test_the_gradient_does_not_depend_on_the_device_count(shape, scale):
    alone, _ = on_mesh(1, 1, scale)
    spread, _ = on_mesh(*shape, scale)
    for ours, expected in zip(jax.tree.leaves(spread), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=2e-6 * np.abs(expected).max())


def test_devices_send_keys_and_key_gradients_and_nothing_that_grows_with_the_pairs():
    _, text = on_mesh(8, 1)
    sent = {}
    for shapes, name in re.findall(r"= (.*?) (all-gather|reduce-scatter|all-reduce)\(", text):
        elements = [
            int(np.prod([int(n) for n in shape.split(",") if n]))
            for shape in re.findall(r"\[([\d,]*)\]", shapes)
        ]
        sent.setdefault(name, []).extend(elements)
    width = 24
    assert max(sent["all-gather"]) == 64 * width
    assert max(sent["reduce-scatter"]) == 64 // 8 * width
    assert max(sent["all-reduce"]) <= 64  # the maxima of the columns
