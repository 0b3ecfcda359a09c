"""Two processes of two devices each save and restore one state together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

PROCESS = """
import json, sys, time
from pathlib import Path

import jax

index, port, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"localhost:{port}", 2, index)

import jax.numpy as jnp
import numpy as np
from jax import P
from jax.sharding import AxisType, NamedSharding

from simjax.checkpoint import manifest
from simjax.checkpoint.manager import CheckpointConfig, Checkpoints

mesh = jax.make_mesh((4,), ("fsdp",), axis_types=(AxisType.Auto,))
split, whole = NamedSharding(mesh, P("fsdp")), NamedSharding(mesh, P())
values = np.arange(64, dtype=np.float32).reshape(16, 4)
kernel = jax.make_array_from_callback(values.shape, split, lambda where: values[where])
rest = jax.jit(
    lambda n: {"step": n, "key": jax.random.key(3), "empty": jnp.zeros((0, 2))},
    out_shardings=whole,
)
write = manifest.write


def write_slowly(path):
    time.sleep(1)
    write(path)


manifest.write = write_slowly
with Checkpoints(folder, CheckpointConfig(keep=1), best_metric="dev") as checkpoints:
    checkpoints.identify({"seed": 1})
    for step, score in ((1, 0.5), (2, 0.9), (3, 0.1), (4, 0.2)):
        state = {"kernel": kernel * step, **rest(step)}
        checkpoints.save(step, state, {"next_index": step}, {"dev": score})
    checkpoints.wait()
    assert manifest.read(Path(folder) / "4")  # by process 0, whose wait is no longer
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )
    state, data_state = checkpoints.restore(checkpoints.best(), target)
    if index == 1:  # what this process alone sees is not acted upon
        manifest.verify = lambda folder: 1 / 0
    said = []
    checkpoints.check(said.append)
    assert checkpoints.steps() == [2, 4] and not said
    assert len(state["kernel"].addressable_shards) == 2
    for shard in state["kernel"].addressable_shards:
        np.testing.assert_array_equal(np.asarray(shard.data), 2 * values[shard.index])
    told = {
        "steps": checkpoints.steps(),
        "best": checkpoints.best(),
        "step": int(state["step"]),
        "data": data_state,
    }
print(json.dumps(told))
"""


@pytest.mark.multiprocess
def test_two_processes_see_the_same(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(index), str(port), str(tmp_path / "run")],
            stdout=subprocess.PIPE,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            text=True,
        )
        for index in range(2)
    ]
    try:
        told = [process.communicate(timeout=120)[0].splitlines()[-1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0]
    expected = {"steps": [2, 4], "best": 2, "step": 2, "data": {"next_index": 2}}
    assert [json.loads(line) for line in told] == [expected, expected]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["2", "4", "run.json"]
