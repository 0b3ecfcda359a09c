"""Formulas of operations, beside the products of the traced step, loops as they turn."""

from __future__ import annotations

import math
from typing import Any

import jax
import pytest
from jax.extend import core

from simjax.objectives.config import MaskedLmConfig
from simjax.plan.layout import layout_of
from simjax.plan.operations import operations
from tests.plan.small import program, recipe

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
    ],
    ids=[
        "one batch",
        "micro-batches, both directions",
        "joint, layers computed anew",
        "masked tokens",
    ],
)
def test_what_is_computed_is_what_the_traced_step_multiplies(config):
    planned = program(config, jax.devices()[:1])
    traced = jax.make_jaxpr(planned.update.step(planned.micro))(planned.state, planned.batch)
    count = operations(layout_of(planned), "cpu")
    assert count.pairs > 0.1 * count.computed
    assert count.computed == pytest.approx(products(traced.jaxpr), rel=0.02)
