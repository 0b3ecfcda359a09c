"""What a device holds of the state, beside arrays that were really made."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from simjax.mesh import MeshConfig
from simjax.plan.layout import layout_of
from simjax.plan.parts import memory
from simjax.train.state import init_state
from tests.plan.small import program, recipe, with_adapters


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
    assert held.adapted == 0


def test_adapters_are_merged_into_the_kernels_that_they_are_for():
    kernels = ("encoder.layers.qkv", "encoder.layers.output")
    config = with_adapters(recipe(mesh=MeshConfig(fsdp=2)), rank=2, kernels=kernels)
    layout = layout_of(program(config))
    # Three layers of width 32, 96 inside, on every device whole.
    assert layout.held.adapted == 4 * 3 * (32 * 96 + 96 * 32)
    parts = {part.name: part.bytes for part in memory(layout, "gpu").parts}
    assert parts["kernels with adapters"] == parts["gradients of these"] == layout.held.adapted
    assert layout.held.trained < 0.3 and layout.held.reached
    each = (32 * 96, 32 * 32, 32 * 96, 96 * 32)
    assert layout.held.weighed == pytest.approx((each[0] + each[3]) / sum(each))


def test_a_head_alone_takes_no_way_back_through_the_encoder():
    config = recipe(train={"freeze": ("encoder.*",)})
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, pooling="cls_mlp"))
    held = layout_of(program(config)).held
    assert (held.weighed, held.reached) == (0.0, False)
