"""The mesh, which dimension of a parameter is split, and the collectives of the step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P

from simjax import mesh as meshes
from simjax.errors import UsageError
from simjax.mesh import AXES, DATA, FSDP, TENSOR, MeshConfig
from simjax.train.state import is_stacked


def mesh_of(data: int, fsdp: int) -> jax.sharding.Mesh:
    return meshes.make_mesh(MeshConfig(data, fsdp))


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (8, 1, 1)),
        (MeshConfig(fsdp=4), (2, 4, 1)),
        (MeshConfig(data=2, fsdp=2), (2, 2, 1)),
        (MeshConfig(data=1, fsdp=8), (1, 8, 1)),
        (MeshConfig(fsdp=2, tensor=2), (2, 2, 2)),
        (MeshConfig(tensor=8), (1, 1, 8)),
    ],
)
def test_devices_are_laid_out_as_asked(config, shape):
    mesh = meshes.make_mesh(config)
    assert mesh.devices.shape == shape and mesh.axis_names == (*AXES, TENSOR)
    # One process's devices, and so its blocks of a batch, lie side by side.
    ids = [device.id for device in mesh.devices.flat]
    assert ids == sorted(ids)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (MeshConfig(fsdp=3), ("mesh.fsdp", "3", "8 devices")),
        (MeshConfig(fsdp=0), ("mesh.fsdp", "0")),
        (MeshConfig(tensor=3), ("mesh.tensor", "3", "8 devices")),
        (MeshConfig(data=2, fsdp=2, tensor=4), ("mesh.tensor 4", "16 devices", "8")),
        (MeshConfig(data=5, fsdp=2), ("mesh.data", "10 devices", "8")),
        (MeshConfig(data=0), ("mesh.data",)),
        (MeshConfig(data=-2), ("mesh.data",)),
    ],
)
def test_what_cannot_be_laid_out_is_refused(config, names):
    with pytest.raises(UsageError) as caught:
        meshes.make_mesh(config)
    assert all(name in str(caught.value) for name in names)


SHAPES = {
    "word": (100, 8),
    "layers": {"kernel": (8, 6, 16), "bias": (8, 3), "scale": (4, 12)},
    "square": (8, 8),
    "odd": (5, 3),
    "number": (),
}


def test_the_longest_dimension_that_divides_is_split_but_never_that_of_the_layers():
    shapes = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    specs = meshes.param_specs(shapes, mesh_of(2, 4), stacked=is_stacked)
    assert specs == {
        "word": P(FSDP),
        "layers": {"kernel": P(None, None, FSDP), "bias": P(), "scale": P(None, FSDP)},
        "square": P(FSDP),
        "odd": P(),
        "number": P(),
    }
    alone = meshes.param_specs(shapes, mesh_of(8, 1), stacked=is_stacked)
    assert all(spec == P() for spec in jax.tree.leaves(alone, is_leaf=meshes.is_spec))


PARAMS = {
    "layers": {"kernel": np.arange(2 * 3 * 8.0).reshape(2, 3, 8).astype(np.float32)},
    "word": np.arange(16.0).reshape(8, 2).astype(np.float32),
    "bias": np.arange(3.0).astype(np.float32),
}


@pytest.mark.parametrize("shape", [(8, 1), (4, 2), (2, 4), (1, 8)], ids=str)
@pytest.mark.parametrize("by_layer", [False, True], ids=["step", "layer"])
def test_parameters_are_gathered_whole_and_gradients_summed_once(shape, by_layer):
    """The loss is linear in each parameter, with a weight of its own on every device."""
    mesh = mesh_of(*shape)
    specs = meshes.param_specs(PARAMS, mesh, stacked=is_stacked)
    late = jax.tree_util.tree_map_with_path(
        lambda path, _: by_layer and is_stacked(path), specs, is_leaf=meshes.is_spec
    )
    weight = np.random.default_rng(0).normal(size=8).astype(np.float32)

    def local(params, weight):
        whole = meshes.gather_params(params, specs, late)

        def value(whole):
            layers = whole["layers"]
            if by_layer:
                gather = meshes.gather_layer(specs["layers"])
                layers = [gather(jax.tree.map(lambda x, i=i: x[i], layers)) for i in range(2)]
                total = sum((n + 1) * layer["kernel"].sum() for n, layer in enumerate(layers))
            else:
                total = layers["kernel"][0].sum() + 2 * layers["kernel"][1].sum()
            return weight[0] * (total + (whole["word"] ** 2).sum() + whole["bias"].sum())

        total, grads = jax.value_and_grad(value)(whole)
        assert set(meshes.axes_of(total)) == set(AXES)
        return meshes.global_sum(total), meshes.reduce_grads(grads, specs, late)

    step = jax.shard_map(
        local, mesh=mesh, in_specs=(specs, meshes.batch_spec()), out_specs=(P(), specs)
    )
    total, grads = jax.jit(step)(PARAMS, weight)
    layers, word = PARAMS["layers"]["kernel"], PARAMS["word"]
    value = layers[0].sum() + 2 * layers[1].sum() + (word**2).sum() + PARAMS["bias"].sum()
    np.testing.assert_allclose(total, weight.sum() * value, rtol=1e-4)
    wanted = {
        "layers": {"kernel": np.broadcast_to([[[1.0]], [[2.0]]], layers.shape)},
        "word": 2 * word,
        "bias": np.ones(3),
    }
    for got, want in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(got, weight.sum() * want, rtol=1e-5, atol=1e-6)


def test_outside_of_a_shard_map_the_functions_do_nothing():
    x = jnp.arange(3.0)
    assert meshes.axes_of(x) == ()
    assert meshes.global_sum(x) is x
    assert meshes.vary_like(x, x) is x


def test_a_batch_is_split_over_every_axis():
    sharding = meshes.batch_sharding(mesh_of(2, 4))
    assert sharding.spec == P((DATA, FSDP))
    assert sharding.shard_shape((16, 3)) == (2, 3)
