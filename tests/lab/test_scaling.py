import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from simjax.errors import UsageError
from simjax.lab.bench import scaling
from simjax.lab.bench.compiled_operations import product_operations

TINY = ("--width", 32, "--layers", 1, "--vocab_size", 600, "--dtype", "float32")


def test_products_are_counted_as_loops_turn() -> None:
    def step(x, stack):
        def twice(carry, kernel):
            return jnp.tanh(carry @ kernel @ kernel), None

        x, _ = jax.lax.scan(twice, x, stack)
        return jnp.einsum("bij,bkj->bik", x[None], x[None]).sum()

    x, stack = jnp.ones((24, 48)), jnp.ones((7, 48, 48))
    compiled = jax.jit(step).lower(x, stack).compile()
    assert product_operations(compiled) == 7 * 2 * (2 * 24 * 48 * 48) + 2 * 24 * 24 * 48
    with pytest.raises(ValueError, match="no matrix product"):
        product_operations(jax.jit(jnp.tanh).lower(x).compile())


@pytest.mark.slow
def test_work_by_the_number_of_devices(run, tmp_path) -> None:
    file = tmp_path / "figures.json"
    figures = run(
        scaling,
        *("--devices", 1, 2, 4, "--batch_size", 256, "--micro_batch", 32, *TINY),
        *("--json", file),
    )
    assert json.loads(file.read_text()) == figures
    rows = figures["contenders"]
    strong = [rows[f"strong, {n} devices, float32"] for n in (1, 2, 4)]
    weak = [rows[f"weak, {n} devices, float32"] for n in (1, 2, 4)]
    assert [row["pairs"] for row in (*strong, *weak)] == [256, 256, 256, 256, 512, 1024]
    assert strong[0]["operations"] == weak[0]["operations"]
    # A batch that is shared out is shared out evenly.
    assert [row["efficiency"] for row in strong] == pytest.approx([1, 1, 1], abs=0.05)
    # Work on pairs is all that grows: by as much for each further device.
    growth = [row["operations"] - weak[0]["operations"] for row in weak]
    assert growth[2] == pytest.approx(3 * growth[1], rel=0.05) and growth[1] > 0
    for one, more in zip((strong[0], weak[0]), (strong[1:], weak[1:]), strict=True):
        assert one["sent_bytes"] == 0
        for row in more:
            assert row["sent_bytes"] == sum(row["sent"].values()) > 0
    assert not any("seconds" in row for row in rows.values())


@pytest.mark.multiprocess
def test_processes_share_the_devices_out(run, tmp_path) -> None:
    """A device of one process does and sends what a device of another does."""
    sizes = ("--devices", 4, "--batch_size", 256, "--micro_batch", 32, *TINY)
    here = run(scaling, *sizes)["contenders"]
    file = tmp_path / "figures.json"
    launcher = Path(__file__).parents[2] / "launch" / "local.py"
    command = [launcher, "--processes", 2, "lab", "bench", "scaling", *sizes, "--json", file]
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    there = json.loads(file.read_text())
    assert there["settings"]["processes"] == 2
    assert there["contenders"].keys() == here.keys()
    for name, row in there["contenders"].items():
        for key in ("devices", "pairs", "operations", "sent", "efficiency"):
            assert row[key] == here[name][key], (name, key)
    assert done.stdout.count("efficiency") == 1  # process 0 alone prints


@pytest.mark.slow
def test_keys_that_go_round_a_ring(run) -> None:
    figures = run(
        scaling,
        *("--devices", 2, "--batch_size", 128, "--micro_batch", 32, "--keys", "ring", *TINY),
    )
    for row in figures["contenders"].values():
        assert row["sent"]["collective-permute"] > 0
        assert row["efficiency"] == 1  # beside itself


def test_what_does_not_divide_is_refused(run) -> None:
    with pytest.raises(UsageError, match="no whole micro-batches of 48"):
        run(scaling, "--devices", 2, "--batch_size", 256, "--micro_batch", 48)
    with pytest.raises(UsageError, match="--micro_batch 64 is all that one of 4 devices has"):
        run(scaling, "--devices", 4, "--batch_size", 256, "--micro_batch", 64)
    with pytest.raises(UsageError, match="--devices 64: there are 8"):
        run(scaling, "--devices", 64, "--batch_size", 8192, "--micro_batch", 64)


def test_efficiency_is_work_a_pair() -> None:
    first = {"devices": 2, "pairs": 100, "operations": 1000, "pairs_per_second": 10.0}
    row = {"devices": 8, "pairs": 400, "operations": 1250, "pairs_per_second": 30.0}
    assert scaling._beside(row, first) == pytest.approx(
        {"operations_ratio": 1.25, "efficiency": 0.8, "speed_efficiency": 0.75}
    )
