"""Formulas of operations, beside the products of the traced step, loops as they turn."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import pytest
from jax.extend import core

from simjax.data.config import DataConfig
from simjax.mesh import MeshConfig, make_mesh
from simjax.objectives.config import MaskedLmConfig
from simjax.plan import rows
from simjax.plan.layout import layout_of
from simjax.plan.operations import operations
from simjax.plan.program import make_program
from simjax.plan.shapes import abstract_model
from simjax.train.config import ModelConfig, TokenizerConfig
from tests.plan.small import GUIDE, program, recipe

# So many pairs that they count beside the encoder.
MANY: dict[str, Any] = {
    "batch_size": 8192,
    "block_size": 64,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_size": 32,
}


def products(jaxpr: core.Jaxpr) -> float:
    """Operations of the matrix products of a traced program, on a CPU."""
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            ((left, _), _) = equation.params["dimension_numbers"]
            inner = math.prod(equation.invars[0].aval.shape[axis] for axis in left)
            total += 2.0 * inner * math.prod(equation.outvars[0].aval.shape)
            continue
        turns = equation.params["length"] if name == "scan" else 1
        inside = [value for value in equation.params.values() for value in _jaxprs(value)]
        if name == "cond":  # the other one is for TPUs
            inside = inside[-1:]
        total += turns * sum(products(one) for one in inside)
    return total


def _jaxprs(value: Any) -> list[core.Jaxpr]:
    if isinstance(value, core.ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, core.Jaxpr):
        return [value]
    if isinstance(value, tuple | list):
        return [one for item in value for one in _jaxprs(item)]
    return []


@pytest.mark.parametrize(
    "config",
    [
        recipe(**MANY),
        recipe(**MANY, micro_batch=1024, objective={"directions": "symmetric"}),
        recipe(**MANY, micro_batch=1024, remat="layer", objective={"directions": "joint"}),
        recipe(**MANY, micro_batch=1024, objective={"mlm": MaskedLmConfig()}),
        recipe(**MANY, micro_batch=1024, remat="products", objective={"guide": GUIDE}),
        recipe(**MANY, objective={"guide": GUIDE, "directions": "joint"}),
        recipe(**MANY, train={"freeze": ("encoder.layers.*.qkv.*", "encoder.layers.1.*")}),
    ],
    ids=[
        "one batch",
        "micro-batches, both directions",
        "joint, layers computed anew",
        "masked tokens",
        "scores computed anew, a guide",
        "joint, a guide",
        "frozen kernels",
    ],
)
def test_what_is_computed_is_what_the_traced_step_multiplies(config):
    planned = program(config, jax.devices()[:1])
    traced = jax.make_jaxpr(planned.update.step(planned.micro))(planned.state, planned.batch)
    count = operations(layout_of(planned), "cpu")
    assert count.pairs > 0.1 * count.computed
    assert count.computed == pytest.approx(products(traced.jaxpr), rel=0.02)


def test_bert_base_at_one_block_is_what_a_hand_counts():
    """Twelve layers of width 768 and 3072 inside, 1,024 tokens in rows of 128."""
    config = dataclasses.replace(
        recipe(batch_size=16, block_size=16),
        model=ModelConfig(pretrained="google-bert/bert-base-uncased"),
        tokenizer=TokenizerConfig(),
        data=DataConfig(
            views="dropout", batch_size=16, block_size=16, row_length=128, max_length=32
        ),
    )
    planned = make_program(
        config,
        make_mesh(MeshConfig(data=1), jax.devices()[:1]),
        abstract_model(config),
        rows.longest(config.data, "it is a test"),
    )
    layout = layout_of(planned)
    assert layout.own_tokens == 16 * 2 * 32
    dense = 12 * (768 * 2304 + 768 * 768 + 768 * 3072 + 3072 * 768)
    attention = 12 * 2 * 128 * 768  # of a token: scores with its row, and their weighted sum
    forward = 2 * (dense + attention)
    count = operations(layout, "tpu")
    assert count.encoder == 3 * 1024 * forward
    assert count.pairs == (2 + 2 + 4) * 16 * 16 * 768
    assert count.asked == 3 * 1024 * forward + 6 * 16 * 16 * 768
    assert operations(layout, "gpu").pairs == 6 * 16 * 16 * 768
    masked = dataclasses.replace(layout.objective, mlm=MaskedLmConfig(rate=0.25))
    asked = operations(dataclasses.replace(layout, objective=masked), "tpu").asked
    head = 6 * 256 * (768 * 768 + 768 * 30522)
    assert asked == 2 * 3 * 1024 * forward + head + 6 * 16 * 16 * 768
