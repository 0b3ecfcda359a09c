"""Runs that learn to write a text again from latents of itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from simjax import mesh as meshes
from simjax.checkpoint.config import CheckpointConfig
from simjax.errors import UsageError
from simjax.eval.tasks import EvalConfig, Task
from simjax.generate.reconstructor import Reconstructor
from simjax.mesh import MeshConfig
from simjax.models import latents as latent_passes
from simjax.models.encoder import EncoderConfig
from simjax.models.latents import LatentsConfig
from simjax.objectives.config import ContrastiveConfig, VaeConfig
from simjax.sentence_encoder import SentenceEncoder
from simjax.train import loop
from simjax.train.config import ModelConfig, TokenizerConfig, TrainConfig, validate
from simjax.train.finish import export_run
from simjax.train.heads import make_heads
from simjax.train.setup import set_up
from simjax.train.state import shardings
from simjax.train.step import StepOptions, value_and_grad
from simjax.train.system import Facts
from simjax.train.update import make_update
from tests.train.tiny_run import (
    BLOCK,
    STOPPED,
    TOTAL,
    StopAfter,
    assert_same_bits,
    config_for,
    figures,
    state_at,
    train,
)

KEY = jax.random.key(0)
TEXTS = ["balan cemer dinis", "fopot guruk"]
SPHERE = LatentsConfig(layers=1, size=4, kappa=20.0)
NORMAL = LatentsConfig("gaussian", layers=1, size=4)


def reconstructing(data, output, latents=SPHERE, objective=None, **changes):
    config = config_for(data, output, objective=objective or VaeConfig(), **changes)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, views="reconstruction", row_length=32),
        model=dataclasses.replace(config.model, latents=latents),
    )


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that is measured by the perplexity of texts like those that it learns from."""
    folder = tmp_path_factory.mktemp("vae")
    with (data / "triples.csv").open() as file:
        rows = [line.split(",")[1] for line in file][1:17]
    (folder / "dev.txt").write_text("\n".join(rows) + "\n")
    evaluation = EvalConfig(
        tasks=(Task("reconstruction", str(folder / "dev.txt"), "dev"),),
        every=6,
        metric="dev/perplexity",
    )
    checkpoint = CheckpointConfig(every=3, keep=3)
    config = reconstructing(data, folder / "run", evaluation=evaluation, checkpoint=checkpoint)
    train(config)
    return config


@pytest.mark.slow
def test_the_perplexity_of_held_out_texts_falls_and_names_the_best_step(whole):
    found = {
        line["step"]: line["eval/dev/perplexity"]
        for line in figures(Path(whole.output))
        if "eval/dev/perplexity" in line
    }
    assert sorted(found) == [0, 6, TOTAL]
    # At the start about as many as there are tokens.
    assert 20 < found[0] < 50 and found[TOTAL] < 0.8 * found[0]
    best = min(found, key=found.get)
    exported = SentenceEncoder.from_pretrained(whole.output).decoder
    state = state_at(whole, best).params
    for name in ("lm_head", "latents"):
        jax.tree.map(np.testing.assert_array_equal, exported.params[name], state[name])
    assert (exported.text_length, exported.latents.config) == (16, SPHERE)


@pytest.mark.slow
def test_the_loss_is_what_its_parts_say(whole):
    steps = [line for line in figures(Path(whole.output)) if "vae_loss" in line]
    assert len(steps) == TOTAL
    # Of von Mises-Fisher latents the divergence is a constant of the text, told for each token.
    constant = latent_passes.von_mises_fisher.angles(SPHERE.size, SPHERE.kappa).divergence
    for step in steps:
        assert step["loss"] == step["vae_loss"] == step["vae_reconstruction"]
        np.testing.assert_allclose(step["vae_kl"], constant / 7, rtol=1e-5)
        assert 0 <= step["vae_accuracy"] <= 1 and "contrastive_loss" not in step


@pytest.mark.slow
def test_the_export_embeds_as_sentence_transformers_does(whole):
    ours = SentenceEncoder.from_pretrained(whole.output).encode(TEXTS)
    theirs = SentenceTransformer(f"{whole.output}/export", device="cpu").encode(TEXTS)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
def test_the_export_writes_and_embeds_by_its_latents(whole, capsys, tmp_path):
    said = []
    assert export_run(Path(whole.output), tmp_path / "x", step=9, warn=said.append) == 9
    assert len(said) == 1 and "loads this folder without its latents" in said[0].replace(
        "load this", "loads this"
    )
    encoder = SentenceEncoder.from_pretrained(tmp_path / "x", pooling="latents")
    assert encoder.encode(TEXTS).shape == (2, SPHERE.width)
    reconstructor = Reconstructor.from_pretrained(whole.output)
    np.testing.assert_allclose(
        reconstructor.latents(TEXTS[0]).reshape(-1),
        SentenceEncoder.from_pretrained(whole.output, pooling="latents").encode(TEXTS[0]),
        atol=1e-5,
    )


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path, whole, monkeypatch):
    config = dataclasses.replace(whole, output=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopRequest", StopAfter)
        assert train(config)["steps"] == STOPPED
    train(config)
    assert_same_bits(state_at(config), state_at(whole))


@pytest.mark.slow
def test_another_stage_starts_from_the_latents_of_the_first(data, whole, tmp_path):
    (tmp_path / "run").mkdir()
    config = reconstructing(data, tmp_path / "run")
    config = dataclasses.replace(
        config,
        model=ModelConfig(pretrained=whole.output, latents=SPHERE),
        tokenizer=TokenizerConfig(),
    )
    first = SentenceEncoder.from_pretrained(whole.output).decoder.params
    params = set_up(config).params
    for name in ("lm_head", "latents"):
        jax.tree.map(np.testing.assert_array_equal, params[name], first[name])
    wider = dataclasses.replace(
        config, model=dataclasses.replace(config.model, latents=LatentsConfig(layers=1, size=8))
    )
    with pytest.raises(UsageError, match=r"model\.latents\.size is 8 and that of .* is 4"):
        make_heads(wider, set_up(config).model.config)


def gradient(run, mesh_config, micro, step=0):
    """Metrics and gradients of the first batch on some devices."""
    config = run.config
    mesh = meshes.make_mesh(mesh_config, jax.devices()[: mesh_config.data * mesh_config.fsdp])
    heads = make_heads(config, run.model.config)
    update = make_update(config, mesh, run.model, heads, Facts(0), TOTAL)
    options = StepOptions(micro, "step", 1.0, 0)
    function = value_and_grad(update.system, update.specs.params, mesh, options)
    params = jax.device_put(update.params, shardings(update.specs, mesh).params)
    batch = jax.device_put(run.source[0].batch, meshes.batch_sharding(mesh))
    return jax.tree.map(np.asarray, jax.jit(function)(params, batch, KEY, step))


@pytest.mark.slow
def test_the_gradient_depends_neither_on_the_devices_nor_on_the_micro_batch(data, tmp_path):
    (tmp_path / "run").mkdir()
    objective = VaeConfig(kl_weight=0.5, kl_warmup=4)
    run = set_up(reconstructing(data, tmp_path / "run", NORMAL, objective))
    metrics, grads = gradient(run, MeshConfig(1, 1), None, step=1)
    expected = metrics["vae_reconstruction"] + 0.5 * 0.5 * metrics["vae_kl"]
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    for name in ("inward", "outward"):
        assert np.abs(grads["latents"]["layers"][name]["kernel"]).max() > 0
    for mesh_config, micro in ((MeshConfig(1, 1), 4), (MeshConfig(4, 2), 1)):
        others, found = gradient(run, mesh_config, micro, step=1)
        assert others.keys() == metrics.keys()
        for name, value in metrics.items():
            np.testing.assert_allclose(others[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
        for one, other in zip(jax.tree.leaves(grads), jax.tree.leaves(found), strict=True):
            assert np.abs(one - other).max() <= 2e-5 * np.abs(one).max()


@pytest.mark.slow
def test_the_divergence_of_normal_latents_rises_with_its_weight(data, tmp_path):
    config = reconstructing(
        data, tmp_path / "run", NORMAL, VaeConfig(kl_warmup=TOTAL), mesh=MeshConfig(2, 1)
    )
    train(config)
    steps = [line for line in figures(Path(config.output)) if "vae_loss" in line]
    for number, step in enumerate(steps):
        share = (number + 1) / TOTAL
        expected = step["vae_reconstruction"] + share * step["vae_kl"]
        np.testing.assert_allclose(step["loss"], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"views": "columns"}, r"data\.views is columns and model\.latents is given: objective"),
        (
            {"latents": None},
            r"and model\.latents is null: objective\.name vae, data\.views reconst",
        ),
        ({"objective": ContrastiveConfig()}, r"objective\.name is contrastive and data\.views is"),
        (
            {"family": "distilbert"},
            r"data\.views is reconstruction and model\.encoder \(distilbert",
        ),
        ({"num_layers": 1}, r"model\.latents\.layers is 1 and the encoder has 1 layers"),
        ({"noise": True}, r"train\.noise_scale does not go with objective\.name vae"),
        (
            {"mesh": MeshConfig(tensor=2)},
            r"vae does not go with mesh\.tensor above 1; use mesh\.fsdp",
        ),
        ({"mesh": MeshConfig(gather="layer")}, r"vae does not go with mesh\.gather layer"),
    ],
)
def test_what_it_does_not_go_with(data, tmp_path, changes, says):
    config = reconstructing(data, tmp_path / "run")
    latents = changes.pop("latents", SPHERE)
    config = dataclasses.replace(
        config,
        objective=changes.pop("objective", config.objective),
        mesh=changes.pop("mesh", config.mesh),
        data=dataclasses.replace(config.data, views=changes.pop("views", "reconstruction")),
        train=TrainConfig(micro_batch=BLOCK, noise_scale=changes.pop("noise", False)),
        model=ModelConfig(encoder=EncoderConfig(**changes), latents=latents),
    )
    with pytest.raises(UsageError, match=says):
        validate(config)


def test_texts_are_written_again_by_such_runs_alone(data, tmp_path):
    tasks = (Task("reconstruction", "x.tsv"),)
    config = config_for(data, tmp_path / "run", evaluation=EvalConfig(tasks=tasks))
    with pytest.raises(
        UsageError, match=r"has one of kind reconstruction and model\.latents is null"
    ):
        validate(config)
