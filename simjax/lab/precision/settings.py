"""What is measured: the grids of the full study and of a quick one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Dtype: TypeAlias = Literal["float32", "bfloat16"]
Optimizer: TypeAlias = Literal["adamw", "sgd"]
Arm: TypeAlias = Literal["cross_entropy", "softplus", "rescaled", "flatnce"]
"""A loss that part two trains with, named as in `simjax.lab.precision.arms`."""


@dataclass(frozen=True)
class ArithmeticSettings:
    """Part one.

    Attributes:
        batches: Keys; anchors are the first of them, at most `anchors`.
        temperatures: Scores are cosine / temperature.
        noise: Length of the random vector that is added to an anchor to make its positive: 0.3
            gives a cosine of 0.96, 1 of 0.71, 3 of 0.32.
        draws: Independent inputs of each setting.
        width: Of an embedding.
        anchors: Most anchors. An anchor's gradient has nothing to do with other anchors.
        pooled: A draw of smaller batches holds several, until it has so many anchors.
    """

    batches: tuple[int, ...] = (2, 4, 16, 64, 256, 1024, 4096, 16384)
    temperatures: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2)
    noise: tuple[float, ...] = (0.3, 1.0, 3.0)
    draws: int = 5
    width: int = 384
    anchors: int = 256
    pooled: int = 32


@dataclass(frozen=True)
class TrainingSettings:
    """Part two.

    Attributes:
        batches: Examples of a batch.
        dtypes: `float32` throughout, or `bfloat16` for the encoder, the scores and the loss;
            parameters, gradients and optimiser are float32 in both.
        optimizers: AdamW, and SGD without momentum. Gradients are never clipped.
        seeds: How many; each has its own initial weights, warm-up and order of the data.
        adamw_rates: Peak learning rates that are tried; each arm is reported at its best.
        sgd_rates: The same with SGD, for arms whose gradient does not vanish with sigmoid(v).
        sgd_infonce_rates: For those whose gradient does.
        examples: Trained on by a run, within the bounds of its steps.
        least_steps: Fewest updates of a run.
        most_steps: Most updates of a run.
        warm_up_steps: Updates that all arms of a seed start from: softplus(v), AdamW, float32.
        warm_up_batch: Examples of their batches.
        warm_up_rate: Their learning rate.
        temperature: Scores are cosine / temperature.
        weight_decay: AdamW's.
        width: Hidden size and embedding size.
        layers: Of the encoder.
        heads: Of its attention.
        intermediate: Width of its feed-forward layers.
        vocabulary: Most tokens.
        max_length: Tokens of a text.
        row_length: Tokens of a packed row.
    """

    batches: tuple[int, ...] = (4, 8, 16, 64, 256)
    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16")
    optimizers: tuple[Optimizer, ...] = ("adamw", "sgd")
    arms: tuple[Arm, ...] = ("cross_entropy", "softplus", "rescaled", "flatnce")
    seeds: int = 5
    adamw_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3)
    sgd_rates: tuple[float, ...] = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
    sgd_infonce_rates: tuple[float, ...] = (1e-3, 3e-3, 0.01, 0.03)
    examples: int = 3072
    least_steps: int = 16
    most_steps: int = 300
    warm_up_steps: int = 40
    warm_up_batch: int = 64
    warm_up_rate: float = 1e-3
    temperature: float = 0.02
    weight_decay: float = 0.01
    width: int = 128
    layers: int = 1
    heads: int = 4
    intermediate: int = 256
    vocabulary: int = 4096
    max_length: int = 48
    row_length: int = 96

    def steps(self, batch: int) -> int:
        """Updates of a run."""
        return min(max(self.examples // batch, self.least_steps), self.most_steps)


QUICK_ARITHMETIC = ArithmeticSettings(batches=(2, 16, 64, 1024), temperatures=(0.02, 0.05), draws=3)
QUICK_TRAINING = TrainingSettings(
    batches=(4, 64),
    optimizers=("adamw",),
    seeds=3,
    adamw_rates=(3e-4, 1e-3),
    examples=768,
    least_steps=12,
    most_steps=40,
)
GRIDS = frozenset(
    {"batches", "temperatures", "noise", "draws", "dtypes", "optimizers", "arms", "seeds"}
    | {"adamw_rates", "sgd_rates", "sgd_infonce_rates"}
)
"""Settings that say which measurements are made, and nothing about what one of them gives."""
