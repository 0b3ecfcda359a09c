"""The step that is planned is the one that is trained."""

from __future__ import annotations

import dataclasses

import jax
import pytest

from simjax.plan.program import make_program
from simjax.plan.rows import measured, num_views
from simjax.plan.shapes import abstract_model
from simjax.train import memory
from simjax.train.setup import load_run_tokenizer, set_up
from tests.train.tiny_run import config_for, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def test_state_and_batch_are_those_of_a_run(data, tmp_path):
    config = config_for(data, tmp_path / "run")
    run = set_up(config)
    rows = measured(config.data, load_run_tokenizer(config))
    assert rows is not None and num_views(config.data) == (3, 1)
    batch = memory.abstract_batch(run.source, run.mesh)
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
