from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from simjax.train import optimizer
from simjax.train.optimizer_config import AdamW
from simjax.train.schedule import warmup_steps

TOTAL = 25
SCHEDULES = {
    "linear": transformers.get_linear_schedule_with_warmup,
    "cosine": transformers.get_cosine_schedule_with_warmup,
    "constant": lambda opt, warmup, _: transformers.get_constant_schedule_with_warmup(opt, warmup),
}
NOT_DECAYED = ("bias", "scale", "log_temperature")


def make_params() -> dict:
    rng = np.random.default_rng(0)
    return {
        "layers": {
            "dense": {"kernel": rng.normal(size=(6, 5)), "bias": rng.normal(size=5)},
            "norm": {"scale": 1 + rng.normal(size=5), "bias": rng.normal(size=5)},
        },
        "token": {"embedding": rng.normal(size=(7, 6))},
        "log_temperature": np.array(3.0),
    }


def named(tree) -> dict:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 5, TOTAL])
def test_follows_pytorch_step_for_step(schedule, warmup):
    """AdamW, clip_grad_norm_ and the schedules of transformers, in float32 on both sides."""
    config = AdamW(
        learning_rate=1e-2, schedule=schedule, warmup=warmup, weight_decay=0.1, clip_norm=1.0
    )
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), make_params())
    tx, rate = optimizer.make(config, TOTAL, 256)
    state = tx.init(params)
    step = jax.jit(lambda g, s, p: optimizer.apply(tx, g, s, p, config.clip_norm))

    theirs = {name: torch.tensor(np.asarray(leaf)) for name, leaf in named(params).items()}
    for tensor in theirs.values():
        tensor.requires_grad_()
    groups = [
        {
            "params": [t for n, t in theirs.items() if n.endswith(NOT_DECAYED) is free],
            "weight_decay": 0.0 if free else 0.1,
        }
        for free in (True, False)
    ]
    torch_opt = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.999), eps=1e-8)
    torch_rate = SCHEDULES[schedule](torch_opt, warmup_steps(config, TOTAL), TOTAL)

    rng = np.random.default_rng(1)
    clipped = 0
    for count in range(TOTAL):
        size = 10.0 ** rng.uniform(-2, 1)  # some above the clipping norm, some below
        grads = jax.tree.map(
            lambda p, size=size: jnp.asarray(size * rng.normal(size=p.shape), jnp.float32), params
        )
        for name, grad in named(grads).items():
            theirs[name].grad = torch.tensor(np.asarray(grad))
        torch_norm = torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        np.testing.assert_allclose(rate(count), torch_rate.get_last_lr()[0], rtol=1e-6, atol=1e-10)
        torch_opt.step()
        torch_rate.step()
        params, state, norm = step(grads, state, params)
        np.testing.assert_allclose(norm, torch_norm, rtol=1e-6)
        clipped += float(norm) > 1.0
        for name, leaf in named(params).items():
            np.testing.assert_allclose(leaf, theirs[name].detach(), rtol=1e-6, atol=1e-6)
    assert 5 < clipped < TOTAL - 5


def test_what_decays():
    decays = named(optimizer.decay_mask(make_params()))
    assert {name for name, does in decays.items() if does} == {
        "layers.dense.kernel",
        "token.embedding",
    }


def test_state_is_float32():
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), make_params())
    tx, _ = optimizer.make(AdamW(), TOTAL, 256)
    kinds = {leaf.dtype.name for leaf in jax.tree.leaves(tx.init(params))}
    assert kinds == {"float32", "int32"}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("clip_norm", [1.0, None])
def test_a_gradient_that_is_not_finite_changes_nothing(bad, clip_norm):
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), make_params())
    tx, _ = optimizer.make(AdamW(warmup=0.0), TOTAL, 256)
    grads = jax.tree.map(jnp.ones_like, params)
    step = jax.jit(lambda g, s, p: optimizer.apply(tx, g, s, p, clip_norm))
    params, state, norm = step(grads, tx.init(params), params)
    assert jnp.isfinite(norm)
    before = jax.tree.leaves((params, state))
    grads["layers"]["dense"]["kernel"] = grads["layers"]["dense"]["kernel"].at[1, 2].set(bad)
    after_params, after_state, norm = step(grads, state, params)
    assert not jnp.isfinite(norm)
    for old, new in zip(before, jax.tree.leaves((after_params, after_state)), strict=True):
        assert np.asarray(old).tobytes() == np.asarray(new).tobytes()


def test_clips_tiny_gradients_as_pytorch_does():
    """Where the 1e-6 of clip_grad_norm_ shows, in the moment: Adam hides a common factor."""
    grad = np.array([3e-6, -4e-6], np.float32)
    params = {"kernel": jnp.ones(2)}
    tx, _ = optimizer.make(AdamW(b1=0.0), TOTAL, 256)
    _, state, norm = optimizer.apply(tx, {"kernel": grad}, tx.init(params), params, 1e-6)
    theirs = torch.ones(2, requires_grad=True)
    theirs.grad = torch.tensor(grad)
    np.testing.assert_allclose(norm, torch.nn.utils.clip_grad_norm_([theirs], 1e-6), rtol=1e-6)
    np.testing.assert_allclose(state[0].mu["kernel"], theirs.grad, rtol=1e-6)


def test_a_known_norm_is_taken():
    params = {"kernel": jnp.ones((2, 2))}
    tx, _ = optimizer.make(AdamW(warmup=0.0, b1=0.0), TOTAL, 256)
    grads = {"kernel": jnp.full((2, 2), 3.0)}
    *_, norm = optimizer.apply(tx, grads, tx.init(params), params, 1.0)
    assert float(norm) == 6.0
    _, state, norm = optimizer.apply(tx, grads, tx.init(params), params, 1.0, jnp.float32(12.0))
    assert float(norm) == 12.0
    np.testing.assert_allclose(state[0].mu["kernel"], 3.0 / 12.0, rtol=1e-6)
    *_, norm = optimizer.apply(tx, grads, tx.init(params), params, 1.0, jnp.float32(jnp.nan))
    assert jnp.isnan(norm)
