from __future__ import annotations

import dataclasses
import mmap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from simjax.train import throughput
from simjax.train.throughput import Peak


@dataclasses.dataclass(frozen=True)
class Shape:
    num_layers: int = 3
    hidden_size: int = 16
    intermediate_size: int = 40

    @property
    def kernels_in(self) -> int:
        return self.intermediate_size


def stack(weights, x):
    """The products of an encoder, layer by layer, without what costs no products."""
    for query, key, value, out, up, down in weights:
        scores = jax.nn.softmax(jnp.einsum("rqd,rkd->rqk", x @ query, x @ key))
        x = x + jnp.einsum("rqk,rkd->rqd", scores, x @ value) @ out
        x = x + jnp.tanh(x @ up) @ down
    return x


def product_operations(jaxpr) -> int:
    """2 M N K of every product in a program, read off its shapes."""
    total = 0
    for equation in jaxpr.eqns:
        for inner in jaxprs_in_params(equation.params):
            total += product_operations(inner)
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            out = equation.outvars[0].aval.shape
            total += 2 * int(np.prod(out)) * int(np.prod([left[axis] for axis in contracted]))
    return total


@pytest.mark.parametrize("training", [False, True])
def test_the_count_is_that_of_a_real_program(training):
    shape, rows, length = Shape(), 5, 24
    wide, narrow = (shape.hidden_size, shape.intermediate_size), shape.hidden_size
    square = jnp.ones((narrow, narrow))
    weights = [
        (square, square, square, square, jnp.ones(wide), jnp.ones(wide[::-1]))
    ] * shape.num_layers
    x = jnp.ones((rows, length, narrow))

    def total(w, x):
        return stack(w, x).sum()

    function = jax.grad(total, argnums=(0, 1)) if training else total
    counted = product_operations(jax.make_jaxpr(function)(weights, x).jaxpr)
    expected = throughput.encoder_operations(shape, rows * length, length, training=training)
    assert counted == expected


def test_matmul_parameters_of_bert_base():
    base = Shape(num_layers=12, hidden_size=768, intermediate_size=3072)
    assert throughput.matmul_parameters(base) == 84_934_656


def test_pair_operations():
    def loss(a, k):
        return (a @ k.T).sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(jnp.ones((6, 4)), jnp.ones((9, 4)))
    forward = jax.make_jaxpr(loss)(jnp.ones((6, 4)), jnp.ones((9, 4)))
    counted = {
        "forward": product_operations(forward.jaxpr),
        "both": product_operations(jaxpr.jaxpr),
    }
    # The gradient of a sum does not need its value, which jax leaves in the program all the same.
    assert counted == {"forward": 2 * 6 * 9 * 4, "both": throughput.pair_operations(6, 9, 4)}


@pytest.mark.parametrize(
    ("kind", "bf16", "f32"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12, 156e12),
        ("NVIDIA H100 80GB HBM3", 989e12, 494.5e12),
        ("NVIDIA H100 PCIe", 756e12, 378e12),
        ("NVIDIA H200", 989e12, 494.5e12),
        ("NVIDIA L4", 121e12, 60e12),
        ("NVIDIA L40S", 362e12, 183e12),
        ("TPU v4", 275e12, 275e12),
        ("TPU v5 lite", 197e12, 197e12),
        ("TPU v5p", 459e12, 459e12),
        ("TPU v6 lite", 918e12, 918e12),
        ("cpu", None, None),
        ("NVIDIA GeForce RTX 4090", None, None),
    ],
)
def test_published_peaks(kind, bf16, f32):
    assert throughput.published_peak(kind, jnp.bfloat16) == bf16
    assert throughput.published_peak(kind, "float32") == f32
    assert throughput.published_peak(kind, "float16") is None


@dataclasses.dataclass(frozen=True)
class Device:
    device_kind: str
    process_index: int = 0
    platform: str = "gpu"


def test_the_peak_of_several_devices(monkeypatch):
    h100 = Device("NVIDIA H100 80GB HBM3")
    assert throughput.peak([h100] * 4, "bfloat16") == Peak(4 * 989e12, "published")
    monkeypatch.setattr(throughput, "measured_peak", lambda device, dtype: 7.0)
    other = Device("some accelerator")
    assert throughput.peak([other, other, h100], "bfloat16") == Peak(21.0, "measured")
    cores = [Device("cpu", process, "cpu") for process in (0, 0, 0, 1, 1, 1)]
    assert throughput.peak(cores, "float32") == Peak(14.0, "measured")


def test_measured_on_this_machine():
    found = throughput.peak(jax.devices(), jnp.float32)
    assert found.source == "measured"
    assert 1e8 < found.operations_per_second < 1e14


def test_mfu():
    assert throughput.mfu(50.0, 2.0, Peak(100.0, "published")) == 0.25


def test_memory_of_a_cpu_is_that_of_the_process():
    before = throughput.memory()
    # Pages that are new for certain: an array may lie where a freed one was.
    with mmap.mmap(-1, 64 << 20) as block:
        np.frombuffer(block, np.uint8)[:] = 1
        after = throughput.memory()
    assert before.source == after.source == "process"
    assert 40 << 20 < after.in_use - before.in_use < 200 << 20
    assert after.peak >= after.in_use


def test_memory_of_the_fullest_device():
    class Counting:
        def __init__(self, stats):
            self.stats = stats

        def memory_stats(self):
            return self.stats

    devices = [
        Counting({"bytes_in_use": 10, "peak_bytes_in_use": 90}),
        Counting({"bytes_in_use": 20, "peak_bytes_in_use": 30}),
        Counting(None),
    ]
    assert throughput.memory(devices) == throughput.Memory(20, 90, "device")
