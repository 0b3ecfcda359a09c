"""Flows whose every tensor does something, and what they do written out in NumPy."""

import jax.numpy as jnp
import numpy as np
from scipy.special import erf

from simjax.postprocess.flow import PERMUTATION, STEEPEST, Flow, FlowConfig


def made_flow(width, rank, coupling, *, depth=3, hidden=5, size=0.7, dtype=np.float64):
    config = FlowConfig(width, rank, depth, hidden, coupling)
    rng = np.random.default_rng(0)
    tensors = {name: size * rng.normal(size=shape) for name, shape in config.shapes().items()}
    tensors["axes"] = np.linalg.qr(rng.normal(size=(width, width)))[0][:, :rank]
    tensors = {name: value.astype(dtype) for name, value in tensors.items()}
    orders = [rng.permutation(rank) for _ in range(depth)]
    tensors[PERMUTATION] = np.stack(orders).astype(np.int32)
    return Flow(config, {name: jnp.asarray(value) for name, value in tensors.items()})


def in_numpy(flow, x):
    """`flow.forward` in float64, one vector and one dimension after the other."""
    config, tensors = flow.config, {k: np.asarray(v, np.float64) for k, v in flow.tensors.items()}
    half = config.rank // 2
    results, log_determinants = [], []
    for vector in np.asarray(x, np.float64):
        z, log_determinant = (vector - tensors["mean"]) @ tensors["axes"], 0.0
        for k in range(config.depth):
            z = (z + tensors["actnorm.shift"][k]) * np.exp(tensors["actnorm.log_scale"][k])
            log_determinant += tensors["actnorm.log_scale"][k].sum()
            z = np.array([z[int(place)] for place in tensors[PERMUTATION][k]])
            out = z[:half]
            for layer in range(3):
                kernel, bias = (tensors[f"coupling.{layer}.{n}"][k] for n in ("kernel", "bias"))
                out = kernel.T @ out + bias
                if layer < 2:
                    out = out * 0.5 * (1 + erf(out / np.sqrt(2)))
            moved = z[half:]
            if config.coupling == "affine":
                steepness = STEEPEST * np.tanh(out[len(moved) :] / STEEPEST)
                moved = moved * np.exp(steepness)
                log_determinant += steepness.sum()
            z = np.concatenate([z[:half], moved + out[: len(moved)]])
        results.append(z)
        log_determinants.append(log_determinant)
    return np.stack(results), np.array(log_determinants)
