"""Which of Contrastive Tension's two encoders is what a run leaves behind."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from simjax import mesh as meshes
from simjax.eval import tasks
from simjax.models.sentence_model import split
from simjax.sentence_encoder import SentenceEncoder
from simjax.train.heads import make_heads
from simjax.train.setup import set_up
from simjax.train.system import Facts
from simjax.train.update import make_update
from tests.train.systems import STEPS, config_of
from tests.train.tiny_run import state_at, train


@pytest.mark.parametrize(
    "name", ["tension", pytest.param("tension_in_batch", marks=pytest.mark.slow)]
)
def test_the_encoder_of_the_second_texts_is_evaluated_and_exported(name, data, tmp_path):
    """sentence-transformers keeps that one too; the first has learned something else."""
    evaluation = tasks.EvalConfig(tasks=(tasks.Task("sts", "sts-dev.tsv"),), every=STEPS)
    config = config_of(name, data, tmp_path / "run", "", evaluation=evaluation)
    told = train(config)["after"]
    exported = SentenceEncoder.from_pretrained(config.output)
    run, params = set_up(config), state_at(config).params
    heads = make_heads(config, run.model.config)
    mesh = meshes.make_mesh(config.mesh, jax.devices()[:2])
    update = make_update(config, mesh, run.model, heads, Facts(0), STEPS)
    system = dataclasses.replace(update.system, dropout=False)
    batch, key = run.source[0].batch, jax.random.key(0)
    encode = jax.jit(system.encode_blocks)
    first, second = np.moveaxis(np.asarray(encode(params, batch, key)), 2, 0)
    left = split(exported.model)[1]
    ours = encode({"model": left, "other": left}, batch, key)[:, :, 0]
    np.testing.assert_allclose(ours, second, atol=1e-6)
    assert np.abs(ours - first).max() > 0.01

    task = tasks.load(evaluation, data)
    assert tasks.run(task, exported.encode) == pytest.approx(told, abs=1e-3)
    other = exported.replace(params["other"])
    assert tasks.run(task, other.encode) != pytest.approx(told, abs=0.1)
