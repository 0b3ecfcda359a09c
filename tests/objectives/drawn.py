"""Random examples for objectives, and their loss split over devices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import P

from simjax import mesh as meshes
from simjax.mesh import MeshConfig
from simjax.objectives.objective import Examples, Objective


def examples(
    vectors: np.ndarray,
    *,
    ids: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    scores: np.ndarray | None = None,
    frozen: np.ndarray | None = None,
    views: int | None = None,
) -> Examples:
    """Examples whose texts are all different, unless `ids` says otherwise."""
    n = len(vectors)
    views = views or vectors.shape[1]
    if ids is None:
        ids = np.arange(n * views, dtype=np.int32).reshape(n, views)
    if labels is None:
        labels = np.full(n, -1, np.int32)
    whole = Examples(vectors, ids, labels, scores, np.arange(n, dtype=np.int32), frozen)
    return jax.tree.map(jnp.asarray, whole)


def on_devices(objective: Objective, devices: tuple[int, int]) -> Any:
    """The program of loss, and gradients for parameters and vectors, on a mesh."""
    count = devices[0] * devices[1]
    mesh = meshes.make_mesh(MeshConfig(*devices), jax.devices()[:count])

    def local(params: Any, given: Examples) -> Any:
        def loss(params: Any, vectors: Any) -> Any:
            return objective.loss(params, replace(given, vectors=vectors))

        (_, metrics), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(
            meshes.vary(params), given.vectors
        )
        whole = jax.tree.map(meshes.global_sum, grads[0])
        return metrics["loss"], whole, grads[1]

    spec = meshes.batch_spec()
    split = jax.shard_map(
        local, mesh=mesh, in_specs=(P(), spec), out_specs=(P(), P(), spec), check_vma=True
    )
    return jax.jit(split)


def value_and_grad(
    objective: Objective, params: Any, given: Examples, devices: tuple[int, int] = (1, 1)
) -> tuple[float, Any, np.ndarray]:
    """Loss, and its gradients for the parameters and the vectors, on a mesh."""
    loss, params_grad, vectors_grad = on_devices(objective, devices)(params, given)
    return float(loss), jax.tree.map(np.asarray, params_grad), np.asarray(vectors_grad)


def assert_gradient(found: Any, wanted: Any) -> None:
    """Every entry is within 1e-5 of the largest one of a float64 reference."""
    wanted = np.asarray(wanted)
    assert wanted.dtype == np.float64
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def assert_sharded_is_whole(objective: Objective, params: Any, given: Examples) -> None:
    """The loss and its gradients do not depend on how many devices share the examples."""
    loss, of_params, of_vectors = value_and_grad(objective, params, given)
    assert np.abs(of_vectors).max() > 1e-6
    for devices in ((4, 1), (2, 2)):
        found = value_and_grad(objective, params, given, devices)
        np.testing.assert_allclose(found[0], loss, rtol=2e-6)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
            found[1],
            of_params,
        )
        np.testing.assert_allclose(found[2], of_vectors, rtol=1e-4, atol=2e-7)
