"""Fitting a flow by maximum likelihood, in steps that can be gone on with to the same bits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Float32, Int

from simjax.errors import SimjaxError, UsageError
from simjax.eval.moments import Moments
from simjax.postprocess.flow import (
    FIXED,
    PERMUTATION,
    Coupling,
    Flow,
    FlowConfig,
    Tensors,
    random_flow,
)
from simjax.postprocess.principal import principal_axes

State: TypeAlias = dict[str, Any]
"""`flow`, its tensors by name, and `optimizer`, which is optax's."""

_PART = 4096
_MOST_HELD_OUT = 10_000
_MOST_AT_START = 16_384


@dataclass(frozen=True)
class FitConfig:
    """What flow is fitted, and how.

    Attributes:
        depth: Steps of the flow.
        hidden: Width of the couplings' networks.
        coupling: What couplings do.
        epochs: Passes through the vectors.
        batch_size: Vectors of a step of Adam's.
        learning_rate: Adam's at the start; it falls to 0 along a cosine.
        held_out: Share of the vectors that is not trained on (10,000 of them at most).
        seed: Decides which those are, the order of the others, and the flow at the start.
    """

    depth: int = 4
    hidden: int = 128
    coupling: Coupling = "additive"
    epochs: int = 20
    batch_size: int = 256
    learning_rate: float = 1e-3
    held_out: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)}: must be at least 1")
        if not 0.0 < self.learning_rate < math.inf:
            raise UsageError(f"learning_rate {self.learning_rate}: must be above 0")
        if not 0.0 < self.held_out < 1.0:
            raise UsageError(f"held_out {self.held_out}: must be between 0 and 1")
        if self.seed < 0:
            raise UsageError(f"seed {self.seed}: must be at least 0")


class FlowFit:
    """The likelihood of a flow, maximised over vectors that may lie on the disk.

    Attributes:
        shape: Of the flow.
        steps: Steps in all.
        steps_per_epoch: Steps of an epoch. What is left after its last whole batch is left out, and
            differs from one epoch to the next.
    """

    def __init__(self, rows: Float32[np.ndarray, "N D"], config: FitConfig) -> None:
        """Choose the vectors to train on, and find their principal axes in one pass.

        Raises:
            SimjaxError: They are too few, or too much alike.
            UsageError: There is no such flow.
        """
        count, width = rows.shape
        check_count(count, width, config)
        held_out = _held_out(count, config)
        order = _random(config.seed).permutation(count)
        self._rows, self._config = rows, config
        self._held_out, self._trained = np.sort(order[:held_out]), np.sort(order[held_out:])
        found = Moments.of_stream(self._parts(self._trained))
        principal = principal_axes(found)
        rank = principal.rank
        if rank < 2:
            raise SimjaxError(
                f"the embeddings of the {count:,} sentences vary in {rank} of {width} dimensions: "
                "give more different sentences"
            )
        self.shape = FlowConfig(width, rank, config.depth, config.hidden, config.coupling)
        self._mean, self._axes = found.means[0], principal.axes[:, :rank]
        self._batch_size = min(config.batch_size, len(self._trained))
        self.steps_per_epoch = len(self._trained) // self._batch_size
        self.steps = config.epochs * self.steps_per_epoch
        self._optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, self.steps))
        self._order: tuple[int, Int[np.ndarray, "n"]] = (-1, order)
        self._update = jax.jit(self._update_of, donate_argnums=0)
        self._density = jax.jit(lambda tensors, x: self.flow(tensors).log_likelihood(x))

    def start(self) -> State:
        """The state before the first step."""
        some = _random(self._config.seed, 0).permutation(self._trained)[:_MOST_AT_START]
        x = np.asarray(self._rows[np.sort(some)])
        flow = random_flow(self.shape, self._mean, self._axes, x, self._config.seed)
        return {"flow": flow.tensors, "optimizer": self._optimizer.init(_trained(flow.tensors))}

    def abstract_state(self) -> State:
        """Shapes and types of a state."""
        tensors = {
            name: jax.ShapeDtypeStruct(shape, jnp.int32 if name == PERMUTATION else jnp.float32)
            for name, shape in self.shape.shapes().items()
        }
        optimizer = jax.eval_shape(self._optimizer.init, _trained(tensors))
        return {"flow": tensors, "optimizer": optimizer}

    def flow(self, tensors: Tensors) -> Flow:
        """The flow that has them."""
        return Flow(self.shape, tensors)

    def step(self, state: State, number: int) -> State:
        """The state after step `number`, from 0; the one before is used up."""
        epoch, place = divmod(number, self.steps_per_epoch)
        if self._order[0] != epoch:
            # It follows from the seed and the epoch alone.
            order = _random(self._config.seed, epoch + 1).permutation(self._trained)
            self._order = (epoch, order)
        chosen = self._order[1][place * self._batch_size :][: self._batch_size]
        return self._update(state, np.asarray(self._rows[np.sort(chosen)]))

    def _update_of(self, state: State, x: Float[jax.Array, "B D"]) -> State:
        fixed = {name: state["flow"][name] for name in FIXED}

        def loss(trained: Tensors) -> jax.Array:
            return -self.flow(trained | fixed).log_likelihood(x).mean()

        trained = _trained(state["flow"])
        gradient = jax.grad(loss)(trained)
        updates, optimizer = self._optimizer.update(gradient, state["optimizer"], trained)
        return {"flow": optax.apply_updates(trained, updates) | fixed, "optimizer": optimizer}

    def log_likelihood(self, tensors: Tensors) -> float:
        """The mean over the vectors that are held out, in nats."""
        total = 0.0
        for part in self._parts(self._held_out):
            total += float(np.asarray(self._density(tensors, part), np.float64).sum())
        return total / len(self._held_out)

    def _parts(self, chosen: Int[np.ndarray, "n"]) -> Iterator[Float32[np.ndarray, "_ D"]]:
        for start in range(0, len(chosen), _PART):
            yield np.asarray(self._rows[chosen[start : start + _PART]])


def check_count(count: int, width: int, config: FitConfig) -> None:
    """See that so many vectors are enough.

    Raises:
        SimjaxError: Without those that are held out there are not more than dimensions.
    """
    if count - _held_out(count, config) > width:
        return
    least = max(count, width) + 1
    while least - _held_out(least, config) <= width:
        least += 1
    raise SimjaxError(
        f"a flow over {width} dimensions needs at least {least:,} different sentences and there "
        f"are {count:,}: give more, or whiten the model to fewer dimensions first (simjax "
        "postprocess whitening --dimension)"
    )


def _held_out(count: int, config: FitConfig) -> int:
    return min(max(1, round(config.held_out * count)), _MOST_HELD_OUT)


def _trained(tensors: Any) -> Any:
    return {name: value for name, value in tensors.items() if name not in FIXED}


def _random(*seeds: int) -> np.random.Generator:
    return np.random.default_rng(seeds)
