"""The device mesh: axis names, parameter shardings, and the collectives of the step.

The batch is split over `DATA` and `FSDP`, parameters and optimiser state over `FSDP`, the heads and
inner features of the encoder's layers over `TENSOR`. Which axes an array is split over inside
`jax.shard_map` is part of its type, so the functions here ask the array and not the caller; outside
of a `shard_map` they do nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import jax
import numpy as np
from jax import P
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding

from simjax.errors import UsageError
from simjax.types import Params

DATA = "data"
FSDP = "fsdp"
TENSOR = "tensor"
AXES = (DATA, FSDP)
"""What the batch is split over."""

Tree = TypeVar("Tree")
AnyMesh: TypeAlias = Mesh | AbstractMesh


@dataclass(frozen=True)
class MeshConfig:
    """How the devices are laid out.

    Attributes:
        data: Devices over which the batch alone is split; -1 takes all that are left.
        fsdp: Devices over which parameters and optimiser state are split as well.
        tensor: Devices that share the work on the same texts, each with its heads and inner
            features of every layer; a divisor of the encoder's `num_heads` and `intermediate_size`.
        gather: When split parameters are gathered: once a ``step`` (fastest) or for each ``layer``
            as it is computed (least memory; puts collectives inside the micro-batch loop).
        keys: How devices see each other's keys in the loss: ``all_gather``, or a ``ring`` that
            holds one device's keys at a time; by default what the size of all keys suggests.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    gather: Literal["step", "layer"] = "step"
    keys: Literal["all_gather", "ring"] | None = None


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """Lays out ``devices`` (default: all) as ``data x fsdp x tensor``.

    Raises:
        UsageError: The devices cannot be laid out so.
    """
    devices = jax.devices() if devices is None else devices
    own = min(Counter(device.process_index for device in devices).values())
    shape = _mesh_shape(config, len(devices), own)
    if math.prod(shape) < len(devices) and jax.process_count() > 1:
        raise UsageError(
            f"mesh.data: {shape[0]} x mesh.fsdp {shape[1]} leaves devices of some process idle; "
            "use -1"
        )
    grid = np.asarray(devices[: math.prod(shape)]).reshape(shape)
    return Mesh(grid, (*AXES, TENSOR), axis_types=(AxisType.Auto,) * 3)


def abstract_mesh(config: MeshConfig, devices: int, per_process: int) -> AbstractMesh:
    """The layout of so many devices that are not here, for what depends on its shape alone.

    Raises:
        UsageError: The devices cannot be laid out so.
    """
    shape = _mesh_shape(config, devices, min(devices, per_process))
    return AbstractMesh(shape, (*AXES, TENSOR), axis_types=(AxisType.Auto,) * 3)


def _mesh_shape(config: MeshConfig, devices: int, per_process: int) -> tuple[int, int, int]:
    fsdp, tensor = config.fsdp, config.tensor
    for name, size in (("fsdp", fsdp), ("tensor", tensor)):
        if size < 1 or devices % size:
            raise UsageError(
                f"mesh.{name}: {size} does not divide the {devices} devices; choose a divisor"
            )
    if per_process % tensor:
        raise UsageError(
            f"mesh.tensor: {tensor} does not divide the {per_process} devices of a process; "
            "choose a divisor"
        )
    inner = fsdp * tensor
    data = devices // inner if config.data == -1 else config.data
    if data < 1 or data * inner > devices:
        product = f"mesh.data: {data} x mesh.fsdp {fsdp}" + (
            f" x mesh.tensor {tensor}" if tensor > 1 else ""
        )
        raise UsageError(
            f"{product} needs {data * inner} devices and there are "
            f"{devices}; use -1 to take all that are left"
        )
    return data, fsdp, tensor


def batch_parts(mesh: AnyMesh) -> int:
    """Parts that a batch is split into."""
    return mesh.shape[DATA] * mesh.shape[FSDP]


def splits_params(mesh: AnyMesh) -> bool:
    """Whether parameters are split over devices."""
    return mesh.shape[FSDP] > 1


def batch_spec() -> jax.sharding.PartitionSpec:
    """Blocks, the leading dimension of a batch, are split over `DATA` and `FSDP`."""
    return P(AXES)


def batch_sharding(mesh: AnyMesh) -> NamedSharding:
    """The sharding of the arrays of a `Batch`."""
    return NamedSharding(mesh, batch_spec())


def param_specs(
    params: Params,
    mesh: AnyMesh,
    *,
    stacked: Callable[[tuple[Any, ...]], bool],
    tensor_axis: Callable[[tuple[Any, ...], Any], int | None] = lambda path, leaf: None,
) -> Any:
    """The partition of each leaf: its longest dimension that `FSDP` divides, else none.

    Args:
        params: Arrays or shapes.
        mesh: The mesh.
        stacked: Tells from a leaf's path whether its first dimension counts layers. That one is
            never split, so that a layer can be gathered by itself.
        tensor_axis: The dimension that is split over `TENSOR` as well, which is another one.
    """
    size = mesh.shape[FSDP]

    def spec(path: tuple[Any, ...], leaf: Any) -> jax.sharding.PartitionSpec:
        start = 1 if stacked(path) else 0
        own = tensor_axis(path, leaf) if mesh.shape[TENSOR] > 1 else None
        # What an optimiser keeps beside a parameter may have other dimensions.
        if own is not None and (own < start or leaf.shape[own] % mesh.shape[TENSOR]):
            own = None
        names: dict[int, str] = {} if own is None else {own: TENSOR}
        lengths = [(n, -axis) for axis, n in enumerate(leaf.shape) if axis >= start and axis != own]
        divisible = [(n, axis) for n, axis in lengths if n % size == 0]
        if size > 1 and divisible:
            names[-max(divisible)[1]] = FSDP
        return P(*[names.get(i) for i in range(max(names, default=-1) + 1)])

    return jax.tree_util.tree_map_with_path(spec, params)


def part_size(
    shape: tuple[int, ...], spec: jax.sharding.PartitionSpec, mesh: AnyMesh, *, gathered: bool
) -> int:
    """Elements that a device has of an array; ``gathered``, once it is whole over `FSDP`."""
    ways = {DATA: 1, FSDP: 1 if gathered else mesh.shape[FSDP], TENSOR: mesh.shape[TENSOR]}
    names = [*spec, *[None] * (len(shape) - len(spec))]
    return math.prod(n // ways.get(name, 1) for n, name in zip(shape, names, strict=True))


def _split_axis(spec: jax.sharding.PartitionSpec) -> int | None:
    return next((axis for axis, name in enumerate(spec) if name == FSDP), None)


def axes_of(x: jax.Array) -> tuple[str, ...]:
    """The mesh axes over which an array differs here; empty outside of `shard_map`."""
    varying = jax.typeof(x).manual_axis_type.varying
    return tuple(axis for axis in jax.sharding.get_abstract_mesh().axis_names if axis in varying)


def vary(tree: Tree, axes: tuple[str, ...] = AXES) -> Tree:
    """Marks arrays as different on each device, so that no gradient of them is summed implicitly.

    Reductions then happen once, in float32 and where `reduce_grads` puts them, instead of wherever
    a cast or a loop makes the compiler put them.
    """

    def one(x: jax.Array) -> jax.Array:
        missing = tuple(a for a in axes if a not in axes_of(x))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(one, tree)


def vary_like(tree: Tree, like: jax.Array) -> Tree:
    """Marks arrays as varying over the axes that ``like`` varies over."""
    return vary(tree, axes_of(like))


def is_spec(x: Any) -> bool:
    """Tells the leaves of a tree of partitions."""
    return isinstance(x, jax.sharding.PartitionSpec)


def gather_params(params: Params, specs: Any, late: Any) -> Params:
    """Inside `shard_map`: whole parameters from this device's parts, marked varying.

    Args:
        params: This device's parts.
        specs: Their partition.
        late: Tree of bools: not gathered here but by `gather_layer`.
    """

    def one(x: jax.Array, spec: jax.sharding.PartitionSpec, later: bool) -> jax.Array:
        axis = None if later else _split_axis(spec)
        x = vary(x)
        return x if axis is None else jax.lax.all_gather(x, FSDP, axis=axis, tiled=True)

    return jax.tree.map(one, params, specs, late)


def gather_layer(specs: Any) -> Callable[[Params], Params]:
    """A function that gathers one layer, whose leaves have lost the stacked first dimension.

    Its transpose is a reduce-scatter, so the gradients that come back are this device's part and
    already summed over `FSDP`.
    """
    sliced = jax.tree.map(lambda s: P(*tuple(s)[1:]), specs, is_leaf=is_spec)
    now = jax.tree.map(lambda _: False, sliced, is_leaf=is_spec)
    return lambda layer: gather_params(layer, sliced, now)


def reduce_grads(grads: Params, specs: Any, late: Any) -> Params:
    """Inside `shard_map`: the sum over devices, each device keeping its part.

    Args:
        grads: Local gradients.
        specs: As the parameters'.
        late: Tree of bools: gathered by `gather_layer`, hence reduced over `FSDP` already.
    """

    def scatter(g: jax.Array, spec: jax.sharding.PartitionSpec, done: bool) -> jax.Array:
        axis = _split_axis(spec)
        if axis is None or done:
            return g
        return jax.lax.psum_scatter(g, FSDP, scatter_dimension=axis, tiled=True)

    grads = jax.tree.map(scatter, grads, specs, late)
    leaves, treedef = jax.tree.flatten(grads)
    split = [_split_axis(spec) is not None for spec in jax.tree.leaves(specs, is_leaf=is_spec)]
    # Two calls at most, each over many arrays, which the compiler makes one collective of.
    parts = iter(jax.lax.psum([g for g, s in zip(leaves, split, strict=True) if s], DATA))
    wholes = iter(jax.lax.psum([g for g, s in zip(leaves, split, strict=True) if not s], AXES))
    return jax.tree.unflatten(treedef, [next(parts if s else wholes) for s in split])


def is_part(x: jax.Array) -> bool:
    """Whether devices along `TENSOR` hold different parts of an array."""
    return TENSOR in axes_of(x)


def sum_parts(x: jax.Array) -> jax.Array:
    """The sum over `TENSOR` of what each device computed from its part of a kernel's rows."""
    return jax.lax.psum(x, TENSOR) if is_part(x) else x


def own_part(x: jax.Array, axis: int, like: jax.Array) -> jax.Array:
    """This device's part over `TENSOR` of an array that all have whole, if ``like`` is a part."""
    if not is_part(like):
        return x
    size = x.shape[axis] // jax.lax.axis_size(TENSOR)
    start = jax.lax.axis_index(TENSOR) * size
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis)


def equal_part(x: jax.Array, like: jax.Array) -> jax.Array:
    """This device's equal part of what all devices have alike, where ``like`` differs on them.

    The parts add up to ``x``, so that they are differentiated as other parts of a loss are.
    """
    axes = axes_of(like)
    return vary(x, axes) / jax.lax.axis_size(axes) if axes else x


def global_sum(tree: Tree) -> Tree:
    """The sum over devices that an array differs on; the array itself outside of `shard_map`."""

    def one(x: jax.Array) -> jax.Array:
        axes = axes_of(x)
        return jax.lax.psum(x, axes) if axes else x

    return jax.tree.map(one, tree)
