"""Dense layers behind the pooling: a pooler's own, and those of sentence-transformers folders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from simjax.models.dense import Dense

HeadActivation = Literal["tanh", "identity"]


@dataclass(frozen=True)
class HeadConfig:
    """The shape of one dense layer on pooled vectors."""

    in_features: int
    out_features: int
    activation: HeadActivation = "tanh"
    use_bias: bool = True


@dataclass(frozen=True)
class HeadWeights:
    """One dense layer as sentence-transformers' `Dense` module stores it."""

    weight: Float[np.ndarray, "out in"]
    bias: Float[np.ndarray, "out"] | None
    activation: HeadActivation


class Head(Dense):
    """`activation(x @ kernel + bias)`."""

    def __init__(self, config: HeadConfig, *, stddev: float, rngs: nnx.Rngs) -> None:
        super().__init__(
            config.in_features,
            config.out_features,
            stddev=stddev,
            rngs=rngs,
            use_bias=config.use_bias,
        )
        self.activation = config.activation

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        """Apply the layer over the last axis."""
        y = super().__call__(x)
        return jnp.tanh(y) if self.activation == "tanh" else y

    def weights(self) -> HeadWeights:
        """Copies on the host."""
        bias = None if self.bias is None else np.asarray(self.bias[...], np.float32)
        kernel = np.asarray(self.kernel[...], np.float32)
        return HeadWeights(np.ascontiguousarray(kernel.T), bias, self.activation)
