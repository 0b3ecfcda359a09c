"""An invertible map of vectors to a standard normal distribution (BERT-flow).

Li et al. 2020 (arXiv 2011.05864) put a flow of Glow's kind (Kingma & Dhariwal 2018, arXiv
1807.03039) behind a frozen encoder. Here vectors are first turned to the principal axes of those
that the flow is fitted on. Each step is then, for a vector x:

* actnorm: ``x <- (x + shift) exp(log_scale)``;
* a fixed random permutation of the dimensions;
* a coupling: half of x goes through as it is, and a small network says from it by how much the
  other half is moved (``additive``, as in BERT-flow) and, before that, by what it is multiplied
  (``affine``, as in Glow).

So the determinant of the Jacobian is a product of what stands on diagonals, and every step is
undone in closed form. The scales of the multi-scale architecture, which images need, are left out.

Axes along which the vectors do not vary are left out as well: in the other directions they have a
density, in these they have none. The output of a layer normalisation, as most encoders end with,
always has such a direction, and so have means of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from simjax.errors import UsageError

Coupling = Literal["additive", "affine"]
Tensors: TypeAlias = dict[str, Array]

PERMUTATION = "permutation"
FIXED = ("mean", "axes", PERMUTATION)
"""Tensors that are not trained."""
STEEPEST = 2.0
"""An affine coupling multiplies by at most the exponential of this, and at least its inverse."""


@dataclass(frozen=True)
class FlowConfig:
    """The shape of a flow.

    Attributes:
        width: Dimensions of the vectors (D).
        rank: Directions in which they vary (R), from 2 to `width`: dimensions of what they become.
        depth: Number of steps (K).
        hidden: Width of the couplings' networks (H), which have two hidden layers.
        coupling: What a coupling does to its second half.
    """

    width: int
    rank: int
    depth: int
    hidden: int
    coupling: Coupling

    def __post_init__(self) -> None:
        for name, least in (("rank", 2), ("depth", 1), ("hidden", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"flow {name} {getattr(self, name)}: must be at least {least}")
        if self.rank > self.width:
            raise UsageError(f"flow rank {self.rank}: vectors have {self.width} dimensions")
        if self.coupling not in get_args(Coupling):
            choices = " or ".join(get_args(Coupling))
            raise UsageError(f"flow coupling {self.coupling!r}: choose {choices}")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every tensor, by name; but for mean and axes the first dimension counts the steps."""
        steps, rank, hidden = self.depth, self.rank, self.hidden
        kept = rank // 2
        moved = (rank - kept) * (2 if self.coupling == "affine" else 1)
        shapes: dict[str, tuple[int, ...]] = {
            "mean": (self.width,),
            "axes": (self.width, rank),
            PERMUTATION: (steps, rank),
            "actnorm.shift": (steps, rank),
            "actnorm.log_scale": (steps, rank),
        }
        for number, (inside, outside) in enumerate(
            ((kept, hidden), (hidden, hidden), (hidden, moved))
        ):
            shapes[f"coupling.{number}.kernel"] = (steps, inside, outside)
            shapes[f"coupling.{number}.bias"] = (steps, outside)
        return shapes


@partial(jax.tree_util.register_dataclass, data_fields=["tensors"], meta_fields=["config"])
@dataclass(frozen=True)
class Flow:
    """A flow with its parameters.

    Attributes:
        config: Its shape.
        tensors: By name, as `FlowConfig.shapes` has them; floats, but for the permutation.
    """

    config: FlowConfig
    tensors: Tensors

    @property
    def _steps(self) -> Tensors:
        return {k: v for k, v in self.tensors.items() if k not in ("mean", "axes")}

    def forward(self, x: Float[Array, "*N D"]) -> tuple[Float[Array, "*N R"], Float[Array, "*N"]]:
        """What vectors become, and the logarithm of the determinant of the map's Jacobian there.

        The determinant is that of the map between R-dimensional spaces: from coordinates along the
        axes, which are orthonormal.
        """
        x = (x - self.tensors["mean"]) @ self.tensors["axes"]
        z, log_determinants = jax.lax.scan(partial(_step, self.config), x, self._steps)
        return z, log_determinants.sum(axis=0)

    def inverse(self, z: Float[Array, "*N R"]) -> Float[Array, "*N D"]:
        """The vectors, among those that vary along the axes alone, of which `forward` makes `z`."""
        x = jax.lax.scan(partial(_undo, self.config), z, self._steps, reverse=True)[0]
        return x @ self.tensors["axes"].T + self.tensors["mean"]

    def log_likelihood(self, x: Float[Array, "*N D"]) -> Float[Array, "*N"]:
        """Log-density at each vector, in nats: that of what it becomes, and the log-determinant."""
        z, log_determinant = self.forward(x)
        normal = -0.5 * (jnp.square(z).sum(axis=-1) + self.config.rank * math.log(2 * math.pi))
        return normal + log_determinant


def random_flow(
    config: FlowConfig,
    mean: Float[np.ndarray, "D"],
    axes: Float[np.ndarray, "D R"],
    x: Float[np.ndarray, "N D"],
    seed: int,
) -> Flow:
    """A flow before it is trained, which makes every dimension of `x` have mean 0 and variance 1.

    Networks of couplings end in zeros, so that the couplings do nothing yet. Actnorm is set by what
    reaches it (Glow's data-dependent initialisation).

    Args:
        config: Its shape.
        mean: Of the vectors.
        axes: Their principal axes, as columns.
        x: Some of them, in no particular order.
        seed: Decides permutations and networks.
    """
    rng = np.random.default_rng(seed)
    made = {name: np.zeros(shape, x.dtype) for name, shape in config.shapes().items()}
    made["mean"], made["axes"] = mean.astype(x.dtype), axes.astype(x.dtype)
    orders = [rng.permutation(config.rank) for _ in range(config.depth)]
    made[PERMUTATION] = np.stack(orders).astype(np.int32)
    for name in ("coupling.0.kernel", "coupling.1.kernel"):
        shape = config.shapes()[name]
        made[name] = (rng.normal(size=shape) / math.sqrt(shape[1])).astype(x.dtype)
    at = (x.astype(np.float64) - mean) @ axes
    for number, order in enumerate(orders):
        centre, spread = at.mean(axis=0), at.std(axis=0)
        spread = np.where(spread > 0, spread, 1.0)  # as of a single vector
        made["actnorm.shift"][number] = -centre
        made["actnorm.log_scale"][number] = -np.log(spread)
        at = ((at - centre) / spread)[:, order]
    return Flow(config, {name: jnp.asarray(value) for name, value in made.items()})


def _step(config: FlowConfig, x: Array, tensors: Tensors) -> tuple[Array, Array]:
    scale = tensors["actnorm.log_scale"]
    x = (x + tensors["actnorm.shift"]) * jnp.exp(scale)
    x = x[..., tensors[PERMUTATION]]
    kept, moved = x[..., : config.rank // 2], x[..., config.rank // 2 :]
    shift, log_scale = _coupling(config, kept, tensors)
    x = jnp.concatenate([kept, moved * jnp.exp(log_scale) + shift], axis=-1)
    return x, scale.sum() + log_scale.sum(axis=-1)


def _undo(config: FlowConfig, z: Array, tensors: Tensors) -> tuple[Array, None]:
    kept, moved = z[..., : config.rank // 2], z[..., config.rank // 2 :]
    shift, log_scale = _coupling(config, kept, tensors)
    x = jnp.concatenate([kept, (moved - shift) * jnp.exp(-log_scale)], axis=-1)
    x = x[..., jnp.argsort(tensors[PERMUTATION])]
    return x * jnp.exp(-tensors["actnorm.log_scale"]) - tensors["actnorm.shift"], None


def _coupling(config: FlowConfig, kept: Array, tensors: Tensors) -> tuple[Array, Array]:
    """By how much the other half is moved, and the logarithm of what it is multiplied by."""
    x = kept
    for number in range(3):
        x = x @ tensors[f"coupling.{number}.kernel"] + tensors[f"coupling.{number}.bias"]
        x = jax.nn.gelu(x, approximate=False) if number < 2 else x
    if config.coupling == "additive":
        return x, jnp.zeros_like(x)
    shift, steepness = jnp.split(x, 2, axis=-1)
    return shift, STEEPEST * jnp.tanh(steepness / STEEPEST)
