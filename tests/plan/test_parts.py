"""The memory of a step by formula, beside what a process really took."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from simjax.mesh import MeshConfig
from simjax.plan.layout import layout_of
from simjax.plan.parts import Memory, Part, memory
from tests.plan.small import program, recipe

ROOT = Path(__file__).parents[2]
RECIPES = ("one batch", "micro-batches", "many parameters", "adapters")


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_step_on_a_cpu_takes_what_is_predicted(name, capsys):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS", None)  # as users compile, which takes less time here as well
    done = subprocess.run(
        [sys.executable, "-m", "tests.plan.resident", name],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    with capsys.disabled():
        print(f"\n{name}: predicted over measured {found['predicted'] / found['measured']:.2f}")
    assert math.isfinite(found["loss"])
    assert found["predicted"] == pytest.approx(found["measured"], rel=0.2)


def test_parts_that_make_way_for_each_other_are_not_added_up():
    parts = (Part("always", 1), Part("first", 5, ("encode",)), Part("then", 7, ("loss",)))
    found = Memory(parts)
    assert (found.phase, found.total) == ("loss", 8)


def test_what_a_longer_batch_a_smaller_micro_batch_and_more_devices_change():
    def parts(config, devices=None):
        found = memory(layout_of(program(config, devices)), "gpu")
        return {part.name: part.bytes for part in found.parts}

    one = jax.devices()[:1]
    whole, half = (parts(recipe(micro_batch=n), one) for n in (None, 32))
    assert half["gradients of a micro-batch"] == half["gradients"] == whole["gradients"]
    kept = "activations of a micro-batch"
    assert half[kept] == pytest.approx(whole[kept] / 2, rel=0.01)
    assert whole["embeddings"] == half["embeddings"] == 2 * 64 * 2 * 32 * 4

    split = parts(recipe(mesh=MeshConfig(fsdp=8)))
    assert split["gathered parameters"] == whole["parameters"]
    assert split["layers as operands"] < whole["parameters"]
    assert split["parameters"] < whole["parameters"] / 7
    ring = layout_of(program(recipe(mesh=MeshConfig(keys="ring"))))
    gathered = dataclasses.replace(ring, keys="all_gather")
    names = [{part.name for part in memory(x, "tpu").parts} for x in (ring, gathered)]
    assert "keys on the ring" in names[0] and "gathered keys and their gradients" in names[1]
