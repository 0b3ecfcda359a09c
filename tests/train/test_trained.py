"""Frozen parameters, and adapters beside them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.errors import UsageError
from simjax.models import hf
from simjax.models.sentence_model import split
from simjax.train import config as run_config
from simjax.train import lora, trained
from simjax.train.lora import LoraConfig
from simjax.train.optimizer_config import Muon, ScheduleFreeAdamW
from simjax.train.setup import set_up
from tests.train.tiny_run import config_for, train, write_data

FROZEN = ("encoder.embeddings.*", "encoder.layers.0.*", "encoder.layers.*.bias")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def one_device(config, **changes):
    mesh = dataclasses.replace(config.mesh, data=1, fsdp=1)
    return dataclasses.replace(config, mesh=mesh, **changes)


def with_frozen(config, *patterns):
    train = dataclasses.replace(config.train, freeze=patterns)
    return dataclasses.replace(config, train=train)


def after_steps(run, steps=2):
    """The state before the first step, on the host, and the one after some."""
    state = run.init_state()
    before = jax.device_get(state)
    for number in range(steps):
        batch = jax.tree.map(jnp.asarray, run.source[number].batch)
        state, metrics = run.step(state, batch)
    return before, jax.device_get(state), metrics


def flat(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


@pytest.mark.slow
def test_what_is_frozen_stays_bit_for_bit(data, tmp_path):
    """Whole parameters and single layers, weight decay and all, and keep no moments."""
    config = one_device(config_for(data, tmp_path / "run"))
    config = with_frozen(config, *FROZEN)
    config = dataclasses.replace(
        config, optimizer=dataclasses.replace(config.optimizer, weight_decay=0.5, warmup=0)
    )
    run = set_up(config)
    before, after, metrics = after_steps(run)
    assert np.isfinite(metrics["loss"])
    old, new = flat(before.params), flat(after.params)
    for name, leaf in new.items():
        moved = np.abs(leaf - old[name])
        if ".embeddings." in name or name.endswith("bias"):
            assert moved.max() == 0, name
        elif ".layers." in name:
            assert moved[0].max() == 0 and moved[1].max() > 0, name
    moments = [name for name in flat(before.opt_state) if ".mu." in f".{name}."]
    assert moments and not any("embeddings" in name or "bias" in name for name in moments)
    total = sum(leaf.size for leaf in old.values())
    count = trained.count(before.params, run.mask)
    assert 0 < count < total and f"{total:,} parameters, {count:,} trained" in run.summary()


@pytest.mark.slow
def test_what_is_trained_moves_as_if_all_were(data, tmp_path):
    """One step of SGD: its update is the gradient, which others' being frozen does not change."""
    from simjax.train.optimizer_config import SGD

    config = one_device(config_for(data, tmp_path / "run"), optimizer=SGD(warmup=0))
    config = dataclasses.replace(
        config, optimizer=dataclasses.replace(config.optimizer, clip_norm=None)
    )
    _, whole, _ = after_steps(set_up(config), 1)
    _, part, _ = after_steps(set_up(with_frozen(config, *FROZEN)), 1)
    expected, found = flat(whole.params), flat(part.params)
    name = "model.encoder.layers.output.kernel"
    np.testing.assert_allclose(found[name][1], expected[name][1], rtol=1e-5, atol=1e-8)
    assert np.abs(found[name][0] - expected[name][0]).max() > 0


def test_names_and_patterns():
    params = {
        "model": {
            "encoder": {
                "embeddings": {"word": {"embedding": jnp.zeros((7, 2))}},
                "layers": {"qkv": {"kernel": jnp.zeros((3, 2, 6))}},
            }
        },
        "objective": {"log_scale": jnp.zeros(())},
    }
    mask = trained.trained_mask(params, ["encoder.layers.[01].qkv.*", "objective.*"])
    layers = mask["model"]["encoder"]["layers"]["qkv"]["kernel"]
    np.testing.assert_array_equal(layers, [False, False, True])
    assert not mask["objective"]["log_scale"].any()
    assert mask["model"]["encoder"]["embeddings"]["word"]["embedding"].all()
    assert trained.count(params, mask) == 14 + 12
    two = trained.trained_mask(params | {"other": params["model"]}, ["encoder.embeddings.*"])
    for tower in ("model", "other"):
        assert not two[tower]["encoder"]["embeddings"]["word"]["embedding"].any()
        assert two[tower]["encoder"]["layers"]["qkv"]["kernel"].all()
    with pytest.raises(UsageError, match=r"'encoder.layer.\*' matches no parameter; names are"):
        trained.trained_mask(params, ["encoder.layer.*"])
    with pytest.raises(UsageError, match="no parameter is left to train"):
        trained.trained_mask(params, ["*"])


def with_lora(config, **changes):
    model = dataclasses.replace(config.model, lora=LoraConfig(**{"rank": 4, **changes}))
    return dataclasses.replace(config, model=model)


@pytest.mark.slow
def test_adapters_start_as_nothing_and_learn_by_the_chain_rule(data, tmp_path):
    """With K = K0 + s A B: dA = s dK B', dB = s A' dK, where dK is the whole kernel's gradient."""
    from simjax.train.optimizer_config import SGD

    sgd = SGD(learning_rate=0.1, warmup=0, clip_norm=None, momentum=0.0, weight_decay=0.0)
    plain = one_device(config_for(data, tmp_path / "run"), optimizer=sgd)
    run = set_up(with_lora(plain, kernels=("encoder.layers.output",), alpha=8.0))
    before, after, metrics = after_steps(run, 1)
    _, plain_after, plain_metrics = after_steps(set_up(plain), 1)
    np.testing.assert_allclose(metrics["loss"], plain_metrics["loss"], rtol=1e-6)

    old, new, whole = (flat(state.params) for state in (before, after, plain_after))
    kernel = "model.encoder.layers.output.kernel"
    adapter = "model.adapters.encoder.layers.output."
    step = (whole[kernel] - old[kernel]).astype(np.float64)  # -0.1 dK
    a = old[f"{adapter}lora_a"].astype(np.float64)
    assert not old[f"{adapter}lora_b"].any() and np.abs(a).max() <= 1 / np.sqrt(32)
    np.testing.assert_allclose(
        new[f"{adapter}lora_b"], 2.0 * a.swapaxes(1, 2) @ step, rtol=1e-3, atol=1e-7
    )
    np.testing.assert_array_equal(new[f"{adapter}lora_a"], old[f"{adapter}lora_a"])  # B was 0
    np.testing.assert_array_equal(new[kernel], old[kernel])

    joined = flat(lora.merged(after.params["model"], run.config.model.lora))
    product = new[f"{adapter}lora_a"] @ new[f"{adapter}lora_b"]
    name = kernel.removeprefix("model.")
    np.testing.assert_allclose(joined[name], old[kernel] + 2.0 * product, atol=1e-7)
    assert not any("adapters" in name for name in joined)


@pytest.mark.slow
def test_a_run_with_adapters_exports_them_merged(data, tmp_path):
    """On four by two devices, which split kernels and adapters."""
    config = with_lora(config_for(data, tmp_path / "run"))
    assert run_config.validate(config) is None
    train(config)
    exported = flat(split(hf.load(tmp_path / "run" / "export").model)[1])
    start = flat(set_up(dataclasses.replace(config, output=str(tmp_path / "other"))).params)
    for name, leaf in exported.items():
        moved = np.abs(np.asarray(leaf) - np.asarray(start[f"model.{name}"])).max()
        assert (moved > 1e-4) == (".layers." in name and name.endswith("kernel")), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: with_lora(c, rank=0), "model.lora.rank is 0"),
        (lambda c: with_lora(c, rank=16), "rank is 16 and .* give a rank below both"),
        (lambda c: with_lora(c, kernels=("encoder.layer.*",)), "matches no kernel"),
        (
            lambda c: with_lora(dataclasses.replace(c, optimizer=ScheduleFreeAdamW())),
            "model.lora does not go with optimizer schedule_free_adamw",
        ),
        (
            lambda c: with_lora(dataclasses.replace(c, optimizer=Muon())),
            "model.lora does not go with optimizer muon",
        ),
        (
            lambda c: with_lora(
                dataclasses.replace(c, mesh=dataclasses.replace(c.mesh, fsdp=1, tensor=2))
            ),
            "model.lora does not go with mesh.tensor",
        ),
        (
            lambda c: with_lora(
                dataclasses.replace(c, mesh=dataclasses.replace(c.mesh, gather="layer"))
            ),
            "model.lora does not go with mesh.gather layer",
        ),
    ],
)
def test_what_does_not_go(data, tmp_path, change, message):
    config = config_for(data, tmp_path / "run")
    with pytest.raises(UsageError, match=message):
        changed = change(config)
        run_config.validate(changed)
        set_up(changed)
