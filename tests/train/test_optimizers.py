"""Each optimiser beside optax's or PyTorch's own, layer by layer, and on split parameters."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from optax import contrib

from simjax import mesh as meshes
from simjax.mesh import MeshConfig
from simjax.train import optimizer
from simjax.train.optimizer_config import (
    SGD,
    Adafactor,
    AdamW,
    Lamb,
    Lars,
    Muon,
    OptimizerConfig,
    RMSProp,
    ScheduleFreeAdamW,
)
from simjax.train.schedule import Schedule
from simjax.train.state import TrainState, init_state, shardings, state_specs
from simjax.types import Params
from tests.train.tiny_run import TOTAL, config_for, lines, state_at, train
from tests.train.towers import FAST_COMPILE

STEPS, LAYERS, WIDTH, INNER = 4, 3, 8, 16
SETTINGS: dict[str, Any] = {"learning_rate": 0.05, "warmup": 2, "weight_decay": 0.1}
CONFIGS = {
    "adamw": AdamW(**SETTINGS),
    "lamb": Lamb(**SETTINGS),
    "lars": Lars(**SETTINGS, nesterov=True),
    "adafactor": Adafactor(**SETTINGS, factored_from=4),
    "muon": Muon(**SETTINGS),
    "schedule_free_adamw": ScheduleFreeAdamW(**SETTINGS),
    "sgd": SGD(**SETTINGS),
    "rmsprop": RMSProp(**SETTINGS),
}


def stacked_params() -> Params:
    """As an encoder has them, with layers of very different sizes."""
    rng = np.random.default_rng(0)
    size = 10.0 ** np.arange(LAYERS)

    def kernel(*shape: int) -> np.ndarray:
        draw = rng.normal(size=(LAYERS, *shape))
        return (size.reshape(-1, *[1] * len(shape)) * draw).astype(np.float32)

    layers = {
        "qkv": {"kernel": kernel(WIDTH, 3, WIDTH), "bias": kernel(3, WIDTH)},
        "output": {"kernel": kernel(INNER, WIDTH), "bias": kernel(WIDTH)},
        "norm": {"scale": kernel(WIDTH), "bias": np.zeros((LAYERS, WIDTH), np.float32)},
    }
    word = rng.normal(size=(24, WIDTH)).astype(np.float32)
    pooler = rng.normal(size=(WIDTH, WIDTH)).astype(np.float32)
    params = {
        "model": {
            "encoder": {"embeddings": {"word": {"embedding": word}}, "layers": layers},
            "pooler": {"kernel": pooler, "bias": pooler[0]},
        },
        "objective": {"log_scale": np.float32(3.0)},
    }
    return jax.tree.map(jnp.asarray, params)


def gradients(params: Params) -> list[Params]:
    rng = np.random.default_rng(1)
    return [
        jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
        for _ in range(STEPS)
    ]


def walk(tx: optax.GradientTransformation, params: Params, grads: list[Params]) -> Params:
    @partial(jax.jit, compiler_options=FAST_COMPILE)
    def step(params: Params, state: Any, grad: Params) -> tuple[Params, Any]:
        updates, state = tx.update(grad, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for grad in grads:
        params, state = step(params, state, grad)
    return params


def leaves(tree: Params) -> dict[str, jax.Array]:
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in found}


def flat(tree: Params) -> dict[str, jax.Array]:
    """Leaves by name, each layer of each stacked leaf and each of queries, keys, values its own."""
    apart = {}
    for name, leaf in leaves(tree).items():
        if ".layers." not in name:
            apart[name] = leaf
        elif name.endswith("qkv.kernel"):
            for number, layer in enumerate(leaf):
                apart |= {f"{name}.{number}.{part}": layer[:, n] for n, part in enumerate("qkv")}
        else:
            apart |= {f"{name}.{number}": layer for number, layer in enumerate(leaf)}
    return apart


def is_matrix(name: str) -> bool:
    return "kernel" in name or "embedding" in name


def theirs(config: OptimizerConfig, rate: Schedule, name: str) -> optax.GradientTransformation:
    """What optax has for one plain array of this name."""
    decay = config.weight_decay if is_matrix(name) else 0.0
    match config:
        case AdamW():
            return optax.adamw(rate, weight_decay=decay)
        case Lamb() if is_matrix(name):
            return optax.lamb(rate, weight_decay=decay, eps=config.eps)
        case Lamb():
            return optax.adamw(rate, weight_decay=0.0, eps=config.eps)
        case Lars():
            adapted = is_matrix(name)
            return optax.lars(rate, decay, trust_ratio_mask=adapted, nesterov=True)
        case Adafactor():
            return optax.adafactor(
                rate,
                min_dim_size_to_factor=config.factored_from,
                weight_decay_rate=lambda count: decay * rate(count),
            )
        case Muon() if ".layers." in name and is_matrix(name):
            return contrib.muon(rate, weight_decay=decay, consistent_rms=0.2)
        case Muon():
            return optax.adamw(rate, weight_decay=decay)
        case ScheduleFreeAdamW():
            return contrib.schedule_free_adamw(rate, weight_decay=decay)
        case SGD():
            return optax.chain(optax.add_decayed_weights(decay), optax.sgd(rate, 0.9))
        case RMSProp():
            scaled = optax.rmsprop(rate, 0.99, config.eps, eps_in_sqrt=False)
            return optax.chain(optax.add_decayed_weights(decay), scaled)


# Queries, keys and values are one array, and share a norm, everywhere but in Muon.
def unfused(config: OptimizerConfig, tree: Params) -> dict[str, jax.Array]:
    apart = flat(tree)
    if isinstance(config, Muon):
        return apart
    for name in [name for name in apart if name.endswith(".q")]:
        stem = name[:-2]
        apart[stem] = jnp.stack([apart.pop(f"{stem}.{part}") for part in "qkv"], axis=1)
    return apart


@pytest.mark.parametrize("name", list(CONFIGS))
def test_each_layer_is_updated_as_optax_updates_it_alone(name):
    config, params = CONFIGS[name], stacked_params()
    grads = gradients(params)
    tx, rate = optimizer.make(config, 10, 256)
    got = unfused(config, walk(tx, params, grads))
    split = unfused(config, params), [unfused(config, grad) for grad in grads]

    # One chain for each array by itself, all in one program.
    alone = {key: theirs(config, rate, key) for key in split[0]}

    def update(updates: Any, state: Any, params: Any) -> Any:
        both = {key: alone[key].update(updates[key], state[key], params[key]) for key in alone}
        return {key: pair[0] for key, pair in both.items()}, {k: p[1] for k, p in both.items()}

    apart = optax.GradientTransformation(
        lambda params: {key: alone[key].init(params[key]) for key in alone}, update
    )
    wanted = walk(apart, *split)
    assert got.keys() == wanted.keys()
    for key, want in wanted.items():
        # In parts of the step: weights of size 100 hide one of 0.01.
        moved = np.abs(want - split[0][key]).max()
        assert moved > 0
        np.testing.assert_allclose(got[key], want, atol=2e-4 * moved + 2e-6 * np.abs(want).max())


@pytest.mark.parametrize("name", ["lamb", "lars", "adafactor", "muon"])
def test_layers_of_different_sizes_make_a_difference(name):
    """Else the test above would not see statistics that are taken over all layers."""
    config, params = CONFIGS[name], stacked_params()
    grads = gradients(params)

    # Renamed, the stack is one three-dimensional array like any other.
    def hidden(tree: Params) -> Params:
        return {"kernel": tree["model"]["encoder"]["layers"]["output"]["kernel"]}

    def stacked(tree: Params) -> Params:
        return {"layers": hidden(tree)}

    tx, rate = optimizer.make(config, 10, 256)
    one = walk(tx, stacked(params), [stacked(grad) for grad in grads])["layers"]["kernel"]
    whole = {
        "lamb": optax.lamb,
        "lars": optax.lars,
        "adafactor": lambda rate, weight_decay: optax.adafactor(rate, 4),
        "muon": lambda rate, weight_decay: optax.adamw(rate, weight_decay=weight_decay),
    }[name](rate, weight_decay=0.1)
    other = walk(whole, hidden(params), [hidden(grad) for grad in grads])["kernel"]
    assert np.abs(one - other)[0].max() > 1e-3


def test_sgd_follows_pytorch():
    config = SGD(learning_rate=0.1, warmup=0, schedule="constant", weight_decay=0.1, nesterov=True)
    params = {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)}
    grads = gradients(params)
    tensor = torch.tensor(np.asarray(params["kernel"]), requires_grad=True)
    peer = torch.optim.SGD([tensor], lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True)
    for grad in grads:
        tensor.grad = torch.tensor(np.asarray(grad["kernel"]))
        peer.step()
    got = walk(optimizer.make(config, 10, 256)[0], params, grads)["kernel"]
    np.testing.assert_allclose(got, tensor.detach(), rtol=1e-6, atol=1e-6)


def test_rmsprop_follows_pytorch():
    config = RMSProp(
        learning_rate=0.1, warmup=0, schedule="constant", weight_decay=0.1, momentum=0.5
    )
    params = {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)}
    grads = gradients(params)
    tensor = torch.tensor(np.asarray(params["kernel"]), requires_grad=True)
    peer = torch.optim.RMSprop([tensor], lr=0.1, momentum=0.5, weight_decay=0.1)
    for grad in grads:
        tensor.grad = torch.tensor(np.asarray(grad["kernel"]))
        peer.step()
    got = walk(optimizer.make(config, 10, 256)[0], params, grads)["kernel"]
    np.testing.assert_allclose(got, tensor.detach(), rtol=1e-5, atol=1e-6)


def test_muon_makes_each_of_queries_keys_and_values_nearly_orthogonal():
    config = Muon(learning_rate=1.0, warmup=0, weight_decay=0.0, update_rms=1.0)
    params = {"layers": {"qkv": {"kernel": jnp.zeros((LAYERS, WIDTH, 3, WIDTH))}}}
    moved = walk(optimizer.make(config, 10, 256)[0], params, gradients(params)[:1])
    for layer in moved["layers"]["qkv"]["kernel"]:
        for part in range(3):
            singular = np.linalg.svd(layer[:, part], compute_uv=False) / WIDTH**0.5
            assert singular.min() > 0.3 and singular.max() < 1.3


def some(*fast: str) -> list[Any]:
    """All optimisers, the others slow."""
    return [n if n in fast else pytest.param(n, marks=pytest.mark.slow) for n in CONFIGS]


@pytest.mark.parametrize("shape", [(2, 4), pytest.param((1, 8), marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("name", some("lamb", "adafactor", "muon"))
def test_parameters_split_over_devices_are_updated_as_whole_ones(name, shape):
    """The update as the step makes it, on parameters and state laid out over the mesh."""
    config, params = CONFIGS[name], stacked_params()
    grads = gradients(params)
    tx, _ = optimizer.make(config, 10, 256)
    wanted = walk(tx, params, grads)
    mesh = meshes.make_mesh(MeshConfig(*shape))
    places = shardings(state_specs(params, tx, mesh), mesh)
    state = init_state(jax.tree.map(jnp.array, params), tx, mesh)
    split = [key for key, leaf in leaves(state).items() if not leaf.is_fully_replicated]
    assert any(key.startswith("params") for key in split)
    assert any(key.startswith("opt_state") for key in split)

    def step(state: TrainState, grad: Params) -> TrainState:
        made, opt_state, _ = optimizer.apply(tx, grad, state.opt_state, state.params, None)
        return dataclasses.replace(state, params=made, opt_state=opt_state)

    options = {"out_shardings": places, "compiler_options": FAST_COMPILE}
    update = jax.jit(step, donate_argnums=0, **options)
    for grad in grads:
        state = update(state, jax.device_put(grad, places.params))
    for key, want in leaves(wanted).items():
        got, moved = leaves(state.params)[key], np.abs(want - leaves(params)[key]).max()
        atol = 2e-4 * moved + 2e-6 * np.abs(want).max()
        np.testing.assert_allclose(got, want, atol=atol, err_msg=key)


def test_what_an_optimizer_keeps_in_other_shapes_is_split_as_well():
    params = stacked_params()
    tx, _ = optimizer.make(CONFIGS["adafactor"], 10, 256)
    # As many devices as layers, which stay together nevertheless.
    specs = state_specs(params, tx, meshes.make_mesh(MeshConfig(1, LAYERS), jax.devices()[:LAYERS]))
    shapes = jax.eval_shape(tx.init, params)
    found = jax.tree_util.tree_leaves_with_path(specs.opt_state, is_leaf=meshes.is_spec)
    for (path, spec), leaf in zip(found, jax.tree.leaves(shapes), strict=True):
        assert len(spec) <= leaf.ndim
        if "layers" in jax.tree_util.keystr(path) and len(spec):
            assert spec[0] is None
    split = {jax.tree_util.keystr(path) for path, spec in found if len(spec)}
    assert any("v_row" in name for name in split) or any("v_col" in name for name in split)


@pytest.mark.parametrize("name", some("adamw", "schedule_free_adamw"))
def test_updates_shrink_from_the_heads_down_to_the_embeddings(name):
    config, params = dataclasses.replace(CONFIGS[name], warmup=0), stacked_params()
    grads = gradients(params)[:1]

    def sizes(layer_decay: float) -> dict[str, float]:
        tx, _ = optimizer.make(dataclasses.replace(config, layer_decay=layer_decay), 10, 256)
        after, before = flat(walk(tx, params, grads)), flat(params)
        return {key: float(np.linalg.norm(after[key] - before[key])) for key in before}

    whole, shrunk = sizes(1.0), sizes(0.5)
    assert all(size > 0 for size in whole.values())
    for key, size in shrunk.items():
        above = 0
        if ".layers." in key:
            above = LAYERS - int(key.split(".")[-2 if key[-1] in "qkv" else -1])
        elif "embeddings" in key:
            above = LAYERS + 1
        assert size / whole[key] == pytest.approx(0.5**above, rel=2e-2), key


TRAINED: dict[str, dict[str, Any]] = {
    "lamb": {"learning_rate": 0.05},
    "adafactor": {"learning_rate": 0.05},
    "muon": {"learning_rate": 0.05},
    "schedule_free_adamw": {"learning_rate": 0.02},
    "sgd": {"learning_rate": 0.3},
    "rmsprop": {"learning_rate": 0.01},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TRAINED))
def test_each_trains_an_encoder_on_split_parameters_and_is_saved(data, tmp_path, name):
    chosen = type(CONFIGS[name])(**TRAINED[name], warmup=2, layer_decay=0.9)
    config = config_for(data, tmp_path / "run", optimizer=chosen)
    train(config)
    losses = [line["loss"] for line in lines(tmp_path / "run")]
    assert np.mean(losses[:2]) > 2.5 and np.mean(losses[-3:]) < 1.5
    assert int(state_at(config).step) == TOTAL
