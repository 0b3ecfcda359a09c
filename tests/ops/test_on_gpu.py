"""The operator on a GPU, where there is one: in a process of its own, since tests are on CPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ops.cases import CASES, PLANS

needs_a_gpu = pytest.mark.skipif(
    not Path("/proc/driver/nvidia/gpus").exists(), reason="there is no GPU"
)


def held(platform: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.on_gpu", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": platform, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[1:]


@pytest.mark.gpu
@needs_a_gpu
@pytest.mark.parametrize("implementation", ["tiled", "pallas_gpu"])
def test_an_implementation_on_a_gpu_gives_the_reference(implementation):
    assert len(held("cuda", implementation)) == len(CASES) * len(PLANS)


@pytest.mark.slow
def test_what_a_gpu_is_held_to_is_held_here():
    assert held("cpu", "tiled", "--cases=2") == [
        f"tiled: {case.name}, {plan}" for case in CASES[:2] for plan in PLANS
    ]
