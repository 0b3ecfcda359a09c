"""The gradient of a global batch, however it is cut up, and the program that computes it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax import mesh as meshes
from simjax.errors import UsageError
from simjax.mesh import MeshConfig
from simjax.models.cutoff import Cutoff
from simjax.objectives.config import ContrastiveConfig, MaskedLmConfig
from simjax.train import optimizer
from simjax.train.optimizer_config import AdamW
from simjax.train.state import TrainState, init_state, state_specs
from simjax.train.step import StepOptions, blocks_per_device, make_step
from tests.train.towers import (
    FAST_COMPILE,
    Compiled,
    Layout,
    Tower,
    batch_of,
    collectives,
    in_loops,
)

BLOCKS = 16
TOWERS = {
    "symmetric": Tower(),
    "joint, learned temperature": Tower(
        ContrastiveConfig(directions="joint", learnable_temperature=True, hard_negative_weight=2.0)
    ),
    "forward": Tower(ContrastiveConfig()),
    "bfloat16": Tower(ContrastiveConfig(), dtype=jnp.bfloat16),
    "gated": Tower(family="modernbert"),
    "gated, bfloat16": Tower(family="modernbert", dtype=jnp.bfloat16),
    "scores by distance": Tower(family="mpnet"),
    "cut off, with shared masks": Tower(
        cutoffs=(
            Cutoff("features", 0.25, (False, True, False)),
            Cutoff("tokens", 0.3, (True, False, True)),
        ),
        mask_groups=2,
    ),
    "masked tokens": Tower(ContrastiveConfig(mlm=MaskedLmConfig(weight=0.5, rate=0.3))),
    "masked tokens, bfloat16": Tower(
        ContrastiveConfig(mlm=MaskedLmConfig(weight=0.5, rate=0.3)), dtype=jnp.bfloat16
    ),
}
WHOLE = Layout()
IN_LOOP = Layout(8, 1, 1)
IN_LOOP_FSDP = Layout(1, 8, 1)
BY_LAYER = Layout(2, 4, 1, "layer")
RING = Layout(4, 2, 1, keys="ring")
TENSOR = Layout(2, 2, 1, tensor=2)


@cache
def compiled(tower: str, layout: Layout) -> Compiled:
    return TOWERS[tower].compiled(layout, BLOCKS)


def largest_deviation(tower: str, layout: Layout) -> float:
    """Of all gradients from one device's and one micro-batch's, in parts of the largest of each
    parameter; of all metrics, in parts of their value."""
    metrics, grads = compiled(tower, layout).result
    wanted_metrics, wanted = compiled(tower, WHOLE).result
    assert jax.tree.structure(grads) == jax.tree.structure(wanted)
    assert metrics.keys() == wanted_metrics.keys()
    deviations = [
        np.abs(got - want).max() / np.abs(want).max()
        for got, want in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted), strict=True)
    ]
    deviations += [
        abs(metrics[name] - want) / max(abs(want), 1e-3) for name, want in wanted_metrics.items()
    ]
    return float(max(deviations))


@pytest.mark.parametrize(
    "layout",
    [
        Layout(1, 1, 2),
        Layout(4, 2),
        IN_LOOP,
        IN_LOOP_FSDP,
        BY_LAYER,
        pytest.param(RING, marks=pytest.mark.slow),
        TENSOR,
        pytest.param(Layout(1, 1, tensor=2), marks=pytest.mark.slow),
        pytest.param(Layout(4, 1, 1, tensor=2), marks=pytest.mark.slow),
        pytest.param(Layout(1, 4, 1, "layer", tensor=2), marks=pytest.mark.slow),
        pytest.param(Layout(2, 2, keys="ring", tensor=2), marks=pytest.mark.slow),
        pytest.param(Layout(1, 8, keys="ring"), marks=pytest.mark.slow),
        pytest.param(Layout(2, 1, 4), marks=pytest.mark.slow),
        pytest.param(Layout(1, 1, 1), marks=pytest.mark.slow),
        pytest.param(Layout(4, 1), marks=pytest.mark.slow),
        pytest.param(Layout(8, 1), marks=pytest.mark.slow),
        pytest.param(Layout(2, 4), marks=pytest.mark.slow),
        pytest.param(Layout(2, 4, 1), marks=pytest.mark.slow),
        pytest.param(Layout(1, 8), marks=pytest.mark.slow),
        pytest.param(Layout(1, 8, 1, "layer"), marks=pytest.mark.slow),
        pytest.param(Layout(4, 2, None, "layer"), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_gradient_depends_neither_on_the_device_count_nor_on_the_micro_batch(layout):
    assert largest_deviation("symmetric", layout) < 5e-6


def test_scores_go_along_with_the_batch_and_give_the_same_results():
    tower, batch = TOWERS["symmetric"], batch_of(BLOCKS)
    function, *_ = tower.gradient(IN_LOOP)
    scores = np.full(batch.labels.shape, np.nan, np.float32)
    plain, scored = (
        jax.eval_shape(function, tower.params, given, jax.random.key(1))
        for given in (batch, dataclasses.replace(batch, scores=scores))
    )
    assert plain == scored


@pytest.mark.parametrize(
    "layout",
    [
        IN_LOOP,
        pytest.param(RING, marks=pytest.mark.slow),
        pytest.param(Layout(4, 2), marks=pytest.mark.slow),
        pytest.param(BY_LAYER, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_so_where_the_gradient_is_taken_with_the_value(layout):
    assert largest_deviation("forward", layout) < 5e-6


@pytest.mark.parametrize(
    ("tower", "layout"),
    [
        ("cut off, with shared masks", IN_LOOP),
        pytest.param("cut off, with shared masks", TENSOR, marks=pytest.mark.slow),
        pytest.param("gated", TENSOR, marks=pytest.mark.slow),
        pytest.param("scores by distance", TENSOR, marks=pytest.mark.slow),
        pytest.param("gated", BY_LAYER, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_so_with_other_towers(tower, layout):
    assert largest_deviation(tower, layout) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["bfloat16", "gated, bfloat16"])
def test_parts_of_bfloat16_products_are_summed_in_float32(tower):
    assert largest_deviation(tower, TENSOR) < 3e-2
    assert compiled(tower, TENSOR).reduced_types == {"f32"}


def test_devices_along_tensor_share_the_products_of_a_layer():
    """Each holds and multiplies its part of every kernel of the layers, and no other."""
    grads = compiled("symmetric", TENSOR).arguments[0]
    layers = grads["model"]["encoder"]["layers"]
    for name, axis in {"qkv": -1, "attention_output": -2, "intermediate": -1, "output": -2}.items():
        kernel = layers[name]["kernel"]
        shard = kernel.sharding.shard_shape(kernel.shape)
        assert shard[axis] == kernel.shape[axis] // 2, name
    # Attention's products are of one of the two heads.
    text = compiled("symmetric", TENSOR).text
    assert re.search(r"f32\[\d+,1,16,16\]", text) and not re.search(r"f32\[\d+,2,16,16\]", text)


@pytest.mark.parametrize(
    "layout",
    [Layout(4, 2, 1), BY_LAYER],
    ids=str,
)
@pytest.mark.slow
def test_so_with_a_joint_denominator_and_a_learned_temperature(layout):
    grad = compiled("joint, learned temperature", WHOLE).result[1]["objective"]["log_scale"]
    assert abs(float(grad)) > 1e-3
    assert largest_deviation("joint, learned temperature", layout) < 5e-6


@pytest.mark.parametrize(
    "layout",
    [
        IN_LOOP,
        pytest.param(Layout(1, 1, 1), marks=pytest.mark.slow),
        pytest.param(BY_LAYER, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_so_in_bfloat16_but_for_what_is_rounded_within_a_block(layout):
    # A product over all of a device's rows sums weight gradients in float32 and rounds each once
    # to bfloat16, so cutting the rows up moves a gradient by 2^-9 of its parts, which cancel.
    assert largest_deviation("bfloat16", layout) < 2e-2


@pytest.mark.parametrize(
    "layout",
    [
        IN_LOOP,
        pytest.param(Layout(1, 1, 2), marks=pytest.mark.slow),
        pytest.param(Layout(4, 2), marks=pytest.mark.slow),
        pytest.param(BY_LAYER, marks=pytest.mark.slow),
        pytest.param(TENSOR, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_so_with_a_separable_loss_beside_it(layout):
    """Masked tokens: a mean over the tokens of the batch, not over micro-batches' means."""
    assert largest_deviation("masked tokens", layout) < 5e-6


@pytest.mark.slow
@pytest.mark.parametrize("layout", [IN_LOOP, TENSOR], ids=str)
def test_so_in_bfloat16_with_a_separable_loss(layout):
    assert largest_deviation("masked tokens, bfloat16", layout) < 3e-2


def test_the_encoder_drops_out_before_masked_tokens_as_well():
    tower = Tower(ContrastiveConfig(mlm=MaskedLmConfig(weight=0.5, rate=0.3)), dropout=0.0)
    metrics, _ = tower.compiled(WHOLE, BLOCKS).result
    dropped, _ = compiled("masked tokens", WHOLE).result
    assert abs(metrics["mlm_loss"] - dropped["mlm_loss"]) > 1e-4


def test_a_separable_loss_adds_its_weighted_mean_and_that_ones_gradient():
    metrics, grads = compiled("masked tokens", WHOLE).result
    params, batch, key = compiled("masked tokens", WHOLE).arguments
    system, alone = TOWERS["masked tokens"].system, compiled("forward", WHOLE).result
    own_key = jax.random.fold_in(key, jnp.uint32(2**32 - 1))

    def mean(params: Any) -> jax.Array:
        sums = system.separable.sums(params, batch, own_key, None)
        return sums.loss / sums.weight

    value, addend = jax.jit(jax.value_and_grad(mean))(params)
    np.testing.assert_allclose(metrics["mlm_loss"], value, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], alone[0]["loss"] + 0.5 * value, rtol=1e-6)
    np.testing.assert_allclose(metrics["coupled_loss"], alone[0]["loss"], rtol=1e-6)
    coupled = alone[1] | {"lm_head": jax.tree.map(jnp.zeros_like, grads["lm_head"])}
    expected = jax.tree.map(lambda x, y: x + 0.5 * np.asarray(y), coupled, addend)
    for found, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, atol=5e-6 * np.abs(wanted).max())


def test_dropout_is_on_in_these_comparisons():
    program = compiled("symmetric", WHOLE)
    params, batch, _ = program.arguments
    other, _ = program.program(params, batch, jax.random.key(2))
    assert abs(program.result[0]["loss"] - float(other["loss"])) > 1e-3


def loops_over_micro_batches(text: str) -> bool:
    """Whether the layers' loop, known by a product of attention, is inside of another one."""
    return re.search(r"while/body.*while/body.*nhkc,nhcq->nhkq", text) is not None


@pytest.mark.parametrize(
    ("tower", "layout"),
    [
        ("symmetric", IN_LOOP),
        ("symmetric", IN_LOOP_FSDP),
        pytest.param("forward", IN_LOOP, marks=pytest.mark.slow),
        ("masked tokens", IN_LOOP),
    ],
    ids=str,
)
def test_no_collective_is_in_the_loop_over_micro_batches(tower, layout):
    text = compiled(tower, layout).text
    assert loops_over_micro_batches(text)
    assert not loops_over_micro_batches(compiled(tower, WHOLE).text)
    assert collectives(in_loops(text)) == []
    assert collectives(text.splitlines())


def test_gathering_by_layer_puts_collectives_into_the_loop_as_asked():
    kinds = {kind for kind, _ in collectives(in_loops(compiled("symmetric", BY_LAYER).text))}
    assert kinds == {"all-gather", "reduce-scatter"}


def is_large(arrays: list[tuple[str, tuple[int, ...]]]) -> bool:
    return any(len(shape) > 1 for _, shape in arrays)


@pytest.mark.parametrize("tower", ["symmetric", "forward", "bfloat16", "masked tokens"])
def test_one_combined_float32_reduction_carries_all_gradients(tower):
    program = compiled(tower, IN_LOOP)
    found = collectives(program.text.splitlines())
    reductions = [arrays for kind, arrays in found if kind == "all-reduce" and is_large(arrays)]
    assert len(reductions) == 1
    carried = [shape for dtype, shape in reductions[0] if dtype == "f32"]
    assert len(carried) == len(reductions[0])
    shapes = [leaf.shape for leaf in jax.tree.leaves(TOWERS[tower].params)]
    for shape in set(shapes):
        assert carried.count(shape) >= shapes.count(shape)
    assert program.reduced_types == {"f32"}


def test_memory_does_not_grow_with_the_batch_but_for_its_embeddings():
    tower, few, many = Tower(dropout=0.0), 8, 32
    small, large = (tower.compiled(Layout(1, 1, 2), n).temporary_bytes for n in (few, many))
    at_once = tower.compiled(WHOLE, many).temporary_bytes
    embeddings = batch_of(many - few).ids.size * 32 * 4
    # Vectors, unit vectors, keys, and the gradient of each.
    assert large - small < 12 * embeddings
    assert at_once > 4 * large


@cache
def update(
    objective: ContrastiveConfig | None = None,
) -> tuple[Callable[[], TrainState], Callable[..., Any]]:
    """A state before the first step, made anew by each call, and the compiled update."""
    tower = Tower(objective or ContrastiveConfig())
    mesh = meshes.make_mesh(MeshConfig(2, 2), jax.devices()[:4])
    tx, schedule = optimizer.make(AdamW(warmup=0), 10, 32)
    options = StepOptions(None, "step", 1.0, 0)
    specs = state_specs(tower.params, tx, mesh)
    step = make_step(tower.system, tx, schedule, specs, mesh, options)
    batch = jax.device_put(batch_of(4), meshes.batch_sharding(mesh))

    def start() -> TrainState:
        return init_state(jax.tree.map(jnp.array, tower.params), tx, mesh)

    program = step.lower(start(), batch).compile(compiler_options=FAST_COMPILE)
    return start, lambda state: program(state, batch)


def test_an_update_changes_every_parameter():
    start, step = update()
    state, metrics = step(start())
    assert np.isfinite(float(metrics["grad_norm"])) and int(state.step) == 1
    before, after = jax.tree.leaves(start().params), jax.tree.leaves(state.params)
    assert all((x != y).any() for x, y in zip(before, after, strict=True))


def test_dropout_differs_from_step_to_step_and_is_the_same_when_a_step_is_done_again():
    start, step = update()
    losses = []
    for number in (0, 1, 0):
        count = jax.device_put(jnp.int32(number), start().step.sharding)
        _, metrics = step(dataclasses.replace(start(), step=count))
        losses.append(float(metrics["loss"]))
    assert abs(losses[0] - losses[1]) > 1e-3
    assert losses[0] == losses[2]


def test_a_step_whose_gradient_is_not_finite_changes_nothing_but_the_count():
    start, step = update()
    state, _ = step(start())
    norm = state.params["model"]["encoder"]["embeddings"]["norm"]
    norm["scale"] = norm["scale"] * jnp.nan
    kept = jax.tree.map(np.asarray, state)
    state, metrics = step(state)
    assert np.isnan(float(metrics["grad_norm"]))
    assert int(state.step) == 2
    for old, new in (kept.params, state.params), (kept.opt_state, state.opt_state):
        jax.tree.map(np.testing.assert_array_equal, old, jax.tree.map(np.asarray, new))


def test_a_learned_scale_comes_back_from_its_bound():
    system = TOWERS["joint, learned temperature"].system
    largest = system.objective.config.max_scale
    top = np.float32(np.log(largest))
    params = {"model": {}, "objective": {"log_scale": jnp.float32(top + 1)}}
    held = system.constrain(params)
    assert held["objective"]["log_scale"] == top
    # There its gradient is whole: neither cut off nor halved.
    slope = jax.grad(lambda params: system.figures(params)["scale"])(held)["objective"]["log_scale"]
    np.testing.assert_allclose(slope, largest, rtol=1e-6)
    below = {"model": {}, "objective": {"log_scale": jnp.float32(1)}}
    assert system.constrain(below)["objective"]["log_scale"] == 1


def test_the_step_holds_a_learned_scale_at_its_bound():
    start, step = update(ContrastiveConfig(learnable_temperature=True, max_scale=20.0))
    state = start()
    learned = state.params["objective"]
    learned["log_scale"] = learned["log_scale"] + 1  # as a large step would leave it
    state, _ = step(state)
    assert state.params["objective"]["log_scale"] == np.float32(np.log(20.0))


def mesh_of(devices: int) -> jax.sharding.Mesh:
    return meshes.make_mesh(MeshConfig(), jax.devices()[:devices])


@pytest.mark.parametrize(
    ("batch", "block", "micro", "devices", "expected"),
    [
        (64, 8, None, 4, (2, 2)),
        (64, 8, 8, 4, (2, 1)),
        (64, 8, 16, 2, (4, 2)),
        (64, 8, 64, 8, (1, 1)),  # more than a device has: its share
    ],
)
def test_shares_of_devices_and_micro_batches(batch, block, micro, devices, expected):
    assert blocks_per_device(batch, block, micro, mesh_of(devices)) == expected


@pytest.mark.parametrize(
    ("batch", "micro", "devices", "names"),
    [
        (24, None, 8, ("data.batch_size 24", "8 devices", "multiple of 64")),
        (96, 16, 4, ("train.micro_batch 16", "24 examples")),
    ],
)
def test_what_does_not_divide_is_refused(batch, micro, devices, names):
    with pytest.raises(UsageError) as caught:
        blocks_per_device(batch, 8, micro, mesh_of(devices))
    assert all(name in str(caught.value) for name in names)
