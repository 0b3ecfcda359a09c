"""One update: encode in micro-batches, the loss of the whole batch, one reduction of gradients.

The gradient cache (Gao et al. 2021, arXiv 2101.06983) needs no machinery of its own: a scan of a
rematerialised encoder, the loss on all embeddings, one gradient around both. Activations of one
micro-batch and the embeddings of all are what is in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import P
from jaxtyping import Array, Float, Int, Key

from simjax import mesh as meshes
from simjax.errors import UsageError
from simjax.objectives.separable import Alongside, Separable, Sums
from simjax.objectives.system import SeparableSystem
from simjax.train import noise, optimizer, trained
from simjax.train.average import moving_average
from simjax.train.schedule import Schedule
from simjax.train.state import TrainState, is_stacked, shardings
from simjax.types import Batch, Params

Metrics: TypeAlias = dict[str, Float[Array, ""]]
Step: TypeAlias = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


class ValueAndGrad(Protocol):
    """Metrics and gradients of a global batch."""

    def __call__(
        self, params: Params, batch: Batch, key: Key[Array, ""], step: Int[Array, ""] | int = 0
    ) -> tuple[Metrics, Params]:
        """In the update after `step` others, whose key this is."""


class System(Protocol):
    """What the step knows of what is trained; see `simjax.objectives.system`."""

    @property
    def separable(self) -> Separable | None:
        """A loss beside the coupled one."""

    @property
    def alongside(self) -> Alongside | None:
        """One that makes the embeddings itself, in place of `encode_blocks`."""

    def encode_blocks(
        self, params: Params, batch: Batch, key: Any, gather_layer: Any = None
    ) -> Float[Array, "K E V D"]:
        """Embeddings of some blocks."""

    def loss(
        self, params: Params, embeddings: Float[Array, "K E V D"], batch: Batch
    ) -> tuple[Float[Array, ""], Metrics]:
        """This device's part of the loss, and metrics of the global batch."""

    def layers(self, params: Any) -> Any:
        """The stacked part of the parameters."""

    def figures(self, params: Params) -> Metrics:
        """What is learned and logged."""

    def constrain(self, params: Params) -> Params:
        """Parameters after an update, within their bounds."""


@dataclass(frozen=True)
class StepOptions:
    """Static choices of the step.

    Attributes:
        micro_blocks: Blocks that a device encodes at a time; None, all of its share at once.
        gather: When parameters that are split over devices are gathered.
        clip_norm: Largest global gradient norm.
        seed: Of dropout.
        ema: Decay of the moving average of the parameters, where the state has one.
        noise: Estimate the gradient noise of every step; not with ``gather`` by layer, where
            devices' contributions are added up before they can be told apart.
    """

    micro_blocks: int | None
    gather: Literal["step", "layer"]
    clip_norm: float | None
    seed: int
    ema: float | None = None
    noise: bool = False


def blocks_per_device(
    batch_size: int, block_size: int, micro_batch: int | None, mesh: meshes.AnyMesh
) -> tuple[int, int]:
    """Blocks of a batch on each device, and blocks of a micro-batch.

    Raises:
        UsageError: The batch does not divide by the devices, or a device's share of it not by
            the micro-batch.
    """
    blocks, devices = batch_size // block_size, meshes.batch_parts(mesh)
    if blocks % devices:
        raise UsageError(
            f"data.batch_size {batch_size} is {blocks} blocks of {block_size} (data.block_size), "
            f"which do not divide by {devices} devices (mesh.data x mesh.fsdp); choose a multiple "
            f"of {block_size * devices}, or a smaller data.block_size"
        )
    share = blocks // devices
    if micro_batch is None:
        return share, share
    micro = min(micro_batch // block_size, share)
    if share % micro:
        raise UsageError(
            f"train.micro_batch {micro_batch} does not divide the {share * block_size} examples "
            f"that each device has of a batch"
        )
    return share, micro


def _micro_batches(batch: Batch, micro_blocks: int | None) -> Batch | None:
    """A device's blocks with the micro-batches as a leading dimension; None if there is but one."""
    if micro_blocks is None or micro_blocks == batch.place.shape[0]:
        return None
    return jax.tree.map(lambda x: x.reshape(-1, micro_blocks, *x.shape[1:]), batch)


def encode_in_micro_batches(
    system: System,
    params: Params,
    batch: Batch,
    key: Key[Array, ""],
    micro_blocks: int | None,
    gather_layer: Any = None,
    params_of: Callable[[Params], Params] = lambda params: params,
) -> tuple[Float[Array, "K E V D"], Sums | None]:
    """Embeddings of all of a device's blocks, keeping the activations of one micro-batch.

    With them come the sums of the loss alongside, if the system has one. The parameters are
    `params_of(params)`, made anew in each micro-batch.
    """

    def encode(params: Params, part: Batch) -> tuple[Float[Array, "k E V D"], Sums | None]:
        whole = params_of(params)
        if system.alongside is None:
            return system.encode_blocks(whole, part, key, gather_layer=gather_layer), None
        vectors, sums = system.alongside.encode(whole, part, key, gather_layer)
        return vectors.reshape(*part.ids.shape, vectors.shape[-1]), sums

    parts = _micro_batches(batch, micro_blocks)
    if parts is None:
        return encode(params, batch)
    body = jax.checkpoint(encode, prevent_cse=False)
    _, (embeddings, sums) = jax.lax.scan(lambda _, part: (None, body(params, part)), None, parts)
    total = jax.tree.map(lambda x: x.sum(axis=0), sums)
    return embeddings.reshape(-1, *embeddings.shape[2:]), total


def _means(loss: Separable | Alongside, total: Sums) -> Metrics:
    """Metrics of a loss from its sums over the global batch."""
    sums = {"loss": total.loss} | total.metrics
    divisor = jnp.maximum(total.weight, 1.0)
    return {f"{loss.name}_{name}": value / divisor for name, value in sums.items()}


def _with(metrics: Metrics, loss: Separable | Alongside, means: Metrics) -> Metrics:
    """Metrics of the coupled loss and of one beside it, with the sum of both."""
    coupled = metrics["loss"]
    whole = coupled + loss.weight * means[f"{loss.name}_loss"]
    return metrics | means | {"loss": whole, "coupled_loss": coupled}


def accumulate_separable(
    separable: Separable,
    params_of: Callable[[Params], Params],
    picked: Params,
    batch: Batch,
    key: Key[Array, ""],
    micro_blocks: int | None,
    gather_layer: Any = None,
    step: Int[Array, ""] | int = 0,
) -> tuple[Metrics, Params]:
    """Metrics of a separable loss over the global batch, and this device's part of its gradient.

    Gradients of the micro-batches' sums are added up as they come, for one forward pass each, and
    divided at the end by the global weight, which is not known before.

    Args:
        separable: The loss.
        params_of: All parameters from those that are differentiated.
        picked: The latter.
        batch: This device's blocks.
        key: Of the step.
        micro_blocks: Blocks taken at a time; None, all at once.
        gather_layer: As of `Separable.sums`.
        step: As of `Separable.sums`.
    """
    # No block has this number, nor any pass, so nothing else draws from the key.
    key = jax.random.fold_in(key, jnp.uint32(2**32 - 1))

    def loss(picked: Params, part: Batch) -> tuple[Float[Array, ""], Sums]:
        sums = separable.sums(params_of(picked), part, key, gather_layer, step)
        return sums.loss, jax.lax.stop_gradient(sums)

    def one(part: Batch) -> tuple[Sums, Params]:
        grads, sums = jax.grad(loss, has_aux=True)(picked, part)
        return sums, grads

    parts = _micro_batches(batch, micro_blocks)
    if parts is None:
        sums, grads = one(batch)
    else:
        shapes, _ = jax.eval_shape(one, jax.tree.map(lambda x: x[0], parts))
        nothing = meshes.vary(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))
        zeros = jax.tree.map(lambda p: meshes.vary_like(jnp.zeros(p.shape, p.dtype), p), picked)
        (sums, grads), _ = jax.lax.scan(
            lambda total, part: (jax.tree.map(jnp.add, total, one(part)), None),
            (nothing, zeros),
            parts,
        )
    total = meshes.global_sum(sums)
    share = separable.weight / jnp.maximum(total.weight, 1.0)
    return _means(separable, total), jax.tree.map(lambda g: share * g, grads)


def value_and_grad(
    system: System | SeparableSystem,
    specs: Any,
    mesh: meshes.AnyMesh,
    options: StepOptions,
    mask: Any = None,
) -> ValueAndGrad:
    """Metrics and gradients of a global batch, computed in one `shard_map` over the whole mesh.

    Args:
        system: What is trained.
        specs: Partition of the parameters.
        mesh: The devices.
        options: How.
        mask: What is trained, as of `trained_mask`; gradients are of that alone. None is all.
    """
    if mask is None:
        mask = jax.tree.map(lambda _: np.True_, specs, is_leaf=meshes.is_spec)
    trained_specs = trained.pick(specs, mask)
    by_layer = options.gather == "layer" and meshes.splits_params(mesh)
    late = jax.tree_util.tree_map_with_path(
        lambda path, _: by_layer and is_stacked(path), specs, is_leaf=meshes.is_spec
    )

    def local(
        params: Params, batch: Batch, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Metrics, Params]:
        whole = meshes.gather_params(params, specs, late)
        gather = meshes.gather_layer(system.layers(specs)) if by_layer else None

        def all_of(picked: Params) -> Params:
            return trained.put_back(picked, mask, whole)

        picked = trained.pick(whole, mask)
        metrics: Metrics = {}
        grads: Params | None = None
        if not isinstance(system, SeparableSystem):
            metrics, grads = _coupled(system, all_of, picked, mask, batch, key, options, gather)
        if (separable := system.separable) is not None:
            part, addend = accumulate_separable(
                separable,
                all_of,
                picked,
                batch,
                key,
                options.micro_blocks,
                gather,
                step,
            )
            alone = part | {"loss": separable.weight * part[f"{separable.name}_loss"]}
            metrics = _with(metrics, separable, part) if metrics else alone
            grads = addend if grads is None else jax.tree.map(jnp.add, grads, addend)
        grads = trained.hold_layers(grads, mask)
        return metrics, meshes.reduce_grads(grads, trained_specs, trained.pick(late, mask))

    shared = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(specs, meshes.batch_spec(), P(), P()),
        out_specs=(P(), trained_specs),
    )

    def whole_batch(
        params: Params, batch: Batch, key: Key[Array, ""], step: Int[Array, ""] | int = 0
    ) -> tuple[Metrics, Params]:
        return shared(params, batch, key, jnp.asarray(step, jnp.int32))

    return whole_batch


def _coupled(
    system: System,
    all_of: Callable[[Params], Params],
    picked: Params,
    mask: Any,
    batch: Batch,
    key: Key[Array, ""],
    options: StepOptions,
    gather: Any,
) -> tuple[Metrics, Params]:
    """Metrics of the loss of embeddings, and of one alongside; this device's part of its gradient.

    Args:
        system: What is trained.
        all_of: All parameters from those that are differentiated.
        picked: The latter.
        mask: As of `value_and_grad`.
        batch: This device's blocks.
        key: Of the step.
        options: How.
        gather: Gathers a layer, where parameters are gathered by layer.
    """
    measured = noise.tap(lambda grads: trained.hold_layers(grads, mask))

    def loss(picked: Params, probe: noise.Probe | None) -> tuple[Float[Array, ""], Metrics]:
        def params_of(given: tuple[Params, noise.Probe | None]) -> Params:
            picked, probe = given
            return all_of(picked if probe is None else measured(picked, probe))

        embeddings, sums = encode_in_micro_batches(
            system, (picked, probe), batch, key, options.micro_blocks, gather, params_of
        )
        value, metrics = system.loss(all_of(picked), embeddings, batch)
        if system.alongside is None or sums is None:
            return value, metrics
        total = meshes.global_sum(jax.lax.stop_gradient(sums))
        share = system.alongside.weight / jnp.maximum(total.weight, 1.0)
        means = _means(system.alongside, total)
        return value + share * sums.loss, _with(metrics, system.alongside, means)

    probe = noise.probe(picked) if options.noise else None
    (_, metrics), (grads, squares) = jax.value_and_grad(loss, (0, 1), has_aux=True)(picked, probe)
    if options.noise:
        metrics |= {"contributions": noise.contributions(squares)}
    return metrics, grads


def make_step(
    system: System | SeparableSystem,
    tx: optax.GradientTransformation,
    schedule: Schedule,
    specs: TrainState,
    mesh: meshes.AnyMesh,
    options: StepOptions,
    mask: Any = None,
) -> Step:
    """The compiled update: state and batch in, new state and the batch's metrics out.

    The state is donated. A step whose gradient is not finite leaves it as it was, but for the
    count of steps; `grad_norm` in the metrics says so.
    """
    grad = value_and_grad(system, specs.params, mesh, options, mask)
    seed = jax.random.key(options.seed)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(seed, state.step)
        metrics, grads = grad(state.params, batch, key, state.step)
        params, opt_state, norm = optimizer.apply(
            tx, grads, state.opt_state, state.params, options.clip_norm
        )
        if options.noise:
            share = batch.place.shape[0] // meshes.batch_parts(mesh)
            parts = meshes.batch_parts(mesh) * (share // (options.micro_blocks or share))
            metrics |= noise.estimate(metrics.pop("contributions"), norm, parts)
        params = system.constrain(params)
        mean = state.average
        if options.ema is not None:
            moved = moving_average(mean, params, options.ema, state.step)
            mean = jax.tree.map(partial(jnp.where, jnp.isfinite(norm)), moved, mean)
        metrics |= {
            "grad_norm": norm,
            "learning_rate": schedule(state.step),
        } | system.figures(state.params)
        return TrainState(params, opt_state, state.step + 1, mean), metrics

    places = shardings(specs, mesh)
    return jax.jit(step, donate_argnums=0, out_shardings=(places, None))
