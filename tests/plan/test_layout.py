"""What a device holds of the state, beside arrays that were really made."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from simjax.mesh import MeshConfig
from simjax.plan.layout import layout_of
from simjax.train.state import init_state
from tests.plan.small import program, recipe


@pytest.mark.parametrize(
    "config",
    [
        recipe(mesh=MeshConfig(fsdp=2, tensor=2)),
        recipe(mesh=MeshConfig(fsdp=8), train={"ema": 0.9, "freeze": ("encoder.embeddings.*",)}),
    ],
    ids=["fsdp and tensor", "an average, and frozen tables"],
)
def test_the_state_of_a_device(config):
    planned = program(config)
    held = layout_of(planned).held
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), planned.update.params)
    state = init_state(
        params, planned.update.tx, planned.mesh, average=config.train.ema is not None
    )

    def own(tree):
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))

    assert held.parameters == own(state.params)
    assert held.optimizer == own((state.opt_state, state.step, state.average))
    assert held.parameters < held.whole < 4 * sum(leaf.size for leaf in jax.tree.leaves(params)) + 1
    tables = params["model"]["encoder"]["embeddings"]
    frozen = sum(x.size for x in jax.tree.leaves(tables)) if config.train.freeze else 0
    total = sum(x.size for x in jax.tree.leaves(params))
    assert held.trained == pytest.approx(1 - frozen / total)
