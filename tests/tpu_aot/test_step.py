"""A whole training step compiled for TPUs that are not here, beside its plan."""

from __future__ import annotations

import pytest

from simjax.errors import UsageError
from simjax.mesh import MeshConfig
from simjax.plan.compiled import compile_step
from simjax.plan.layout import layout_of
from simjax.plan.parts import memory
from simjax.plan.topology import tpu_devices
from simjax.plan.transfers import sent, sent_round
from tests.plan.small import program, recipe

pytestmark = pytest.mark.tpu_aot
pytest.importorskip("libtpu")

TOLERANCE = 0.2
"""Of the compiler's total: what it joins and where it puts small arrays is its own affair."""


def test_memory_and_transfers_of_a_step_are_those_of_the_plan(capsys):
    config = recipe(
        batch_size=8192,
        block_size=64,
        micro_batch=512,
        hidden_size=256,
        num_layers=6,
        num_heads=4,
        intermediate_size=1024,
        mesh=MeshConfig(fsdp=4),
        objective={"directions": "symmetric"},
        dtype="bfloat16",
    )
    planned = program(config, list(tpu_devices("v5e:2x4")))
    compiled, layout = compile_step(planned), layout_of(planned)
    formula = memory(layout, "tpu").total
    # The program itself is as large as all parameters of so small an encoder.
    total = compiled.total - compiled.code
    with capsys.disabled():
        print(f"\nv5e:2x4: formula {formula / 1e6:.0f} MB, compiler {total / 1e6:.0f} MB")
    assert formula == pytest.approx(total, rel=TOLERANCE)
    # Ids, log-sum-exps and metrics are a few numbers for each key beside its vector.
    few = 64 * layout.num_keys
    expected, found = sum(sent(layout, "tpu").values()), sum(compiled.sent().values())
    assert 0.95 * expected <= found <= 1.05 * expected + few
    expected, found = sent_round(layout, "tpu"), compiled.sent()["collective-permute"]
    assert 0.95 * expected <= found <= 1.05 * expected + few


def test_a_slice_that_does_not_exist_is_answered_with_some_that_do():
    with pytest.raises(UsageError, match=r"v5e:3x5: libtpu knows no such slice .*v5e:16x16"):
        tpu_devices("v5e:3x5")
