"""The step that is planned is the one that is trained."""

from __future__ import annotations

import dataclasses
import math

import jax
import pytest

from simjax.mesh import MeshConfig
from simjax.objectives.config import MaskedLmConfig
from simjax.plan.layout import layout_of
from simjax.plan.parts import memory
from simjax.plan.program import make_program
from simjax.plan.rows import measured, num_views
from simjax.plan.shapes import abstract_model
from simjax.train.memory import abstract_batch, most_bytes
from simjax.train.setup import load_run_tokenizer, set_up
from tests.plan.small import GUIDE, program, recipe, with_adapters
from tests.train.tiny_run import config_for, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def test_state_and_batch_are_those_of_a_run(data, tmp_path):
    config = config_for(data, tmp_path / "run")
    run = set_up(config)
    rows = measured(config.data, load_run_tokenizer(config))
    assert rows is not None and num_views(config.data) == (3, 1)
    batch = abstract_batch(run.source, run.mesh)
    # A run is ready for a little more than its first batch needs.
    most = batch.block.tokens.shape[1]
    assert run.source[0].batch.block.tokens.shape[1] == rows.rows <= most
    rows = dataclasses.replace(rows, rows=most)
    planned = make_program(config, run.mesh, abstract_model(config), rows)

    def told(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree)

    assert told(planned.state) == told(run.abstract_state())
    assert told(planned.batch) == told(batch)
    assert (planned.share, planned.micro) == (2, 1)


def test_a_guides_vectors_come_with_the_batch():
    planned = program(recipe(mesh=MeshConfig(), objective={"guide": GUIDE}))
    layout = layout_of(planned)
    assert layout.guide_width == 384 == planned.batch.guide.shape[-1]
    leaves = jax.tree.leaves(planned.batch)
    own = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)
    parts = {part.name: part.bytes for part in memory(layout, "cpu").parts}
    places = 4 * layout.share
    assert parts["batch"] == own - places
    texts, keys = layout.own_examples * 2, layout.num_keys
    key = layout.width * (4 + 4) + 384 * 4
    assert parts["the guide's view of own texts"] == 384 * texts * 8
    assert parts["gathered keys and their gradients"] == keys * key
    ring = dataclasses.replace(layout, keys="ring", dtype="bfloat16")
    parts = {part.name: part.bytes for part in memory(ring, "tpu").parts}
    assert parts["the guide's view of own texts"] == 384 * texts * 6
    assert parts["keys on the ring"] == 2 * (keys // 8) * (layout.width * (2 + 4) + 384 * 2)


@pytest.mark.parametrize(
    "config",
    [
        recipe(batch_size=512, hidden_size=16, objective={"guide": GUIDE}),
        with_adapters(recipe(hidden_size=128, intermediate_size=512)),
        recipe(objective={"mlm": MaskedLmConfig()}),
    ],
    ids=["a guide", "adapters", "masked tokens"],
)
def test_what_a_run_trusts_without_a_compiler_is_more_than_the_plan(config):
    planned = program(config, jax.devices()[:1])
    layout = layout_of(planned)
    most = most_bytes(layout.shape, planned.state, planned.batch, planned.micro)
    assert most > memory(layout, "cpu").total
