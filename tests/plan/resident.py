"""Run as a module: memory that a step took on one CPU device, beside what was predicted."""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from simjax.plan.layout import layout_of
from simjax.plan.parts import memory
from simjax.train.config import RunConfig
from simjax.train.state import init_state
from simjax.types import Batch, Block
from tests.plan.small import program, recipe, with_adapters

RECIPES: dict[str, RunConfig] = {
    "one batch": recipe(
        batch_size=512, block_size=64, hidden_size=128, num_heads=4, intermediate_size=512
    ),
    "micro-batches": recipe(
        batch_size=4096,
        block_size=64,
        micro_batch=512,
        hidden_size=96,
        num_layers=2,
        intermediate_size=192,
        remat="layer",
        objective={"directions": "symmetric"},
    ),
    "many parameters": recipe(
        batch_size=16, hidden_size=768, num_layers=4, num_heads=8, intermediate_size=3072
    ),
}
RECIPES["adapters"] = with_adapters(RECIPES["many parameters"])


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])


def _batch(shapes: Batch) -> Batch:
    """Rows full of texts of 16 tokens."""
    random = np.random.default_rng(0)
    tokens = shapes.block.tokens.shape
    columns = np.broadcast_to(np.arange(tokens[2]), tokens)
    text = np.arange(tokens[1])[None, :, None] * (tokens[2] // 16) + columns // 16
    first = 16 * np.broadcast_to(np.arange(shapes.block.first.shape[1]), shapes.block.first.shape)
    block = Block(
        random.integers(5, 500, tokens),
        columns % 16,
        text,
        np.minimum(first, tokens[1] * tokens[2] - 1),
    )
    ids = np.repeat(np.arange(np.prod(shapes.ids.shape[:2])), shapes.ids.shape[2])
    batch = Batch(
        block,
        ids.reshape(shapes.ids.shape),
        np.full(shapes.labels.shape, -1),
        np.arange(shapes.place.shape[0]),
    )
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.int32), batch)


def main(name: str) -> None:
    planned = program(RECIPES[name], jax.devices()[:1])
    step = planned.update.step(planned.micro)
    # Programs are made and thread pools started before anything is counted.
    compiled = step.lower(planned.state, planned.batch).compile()
    small = program(recipe(), jax.devices()[:1])
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), small.update.params)
    jax.block_until_ready(
        small.update.step(small.micro)(
            init_state(params, small.update.tx, small.mesh), _batch(small.batch)
        )
    )
    del params
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: random.normal(scale=0.02, size=x.shape).astype(np.float32), planned.update.params
    )
    state = init_state(params, planned.update.tx, planned.mesh)
    del params
    batch = _batch(planned.batch)
    for _ in range(2):
        state, metrics = compiled(state, batch)
        jax.block_until_ready(state)
    found = {
        "predicted": memory(layout_of(planned), "cpu").total,
        "measured": _status("VmHWM") - before,
        "loss": float(metrics["loss"]),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
