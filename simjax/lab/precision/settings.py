"""What is measured: the grids of the full study and of a quick one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Dtype: TypeAlias = Literal["float32", "bfloat16"]
Optimizer: TypeAlias = Literal["adamw", "sgd"]
Arm: TypeAlias = Literal["cross_entropy", "softplus", "rescaled", "flatnce"]
"""A loss that part two trains with, named as in `simjax.lab.precision.arms`."""
Block: TypeAlias = Literal["corpus", "easy"]
"""`corpus`: the pairs of the corpus. `easy`: texts and the same without their last word, at a lower
temperature, so that positives do dominate and cancellation can show."""
Form: TypeAlias = Literal[
    "cross_entropy", "lse_minus_positive", "softplus", "dcl", "flatnce", "rescaled"
]
FORMS: tuple[Form, ...] = get_args(Form)[:5]
"""What part one measures."""
LOGGED = ("loss", "mean_v", "mean_weight", "grad_norm")
"""What is kept of each step of a run, as means over windows."""
ROUNDOFF = {
    "float32": 2.0**-24,
    "tf32": 2.0**-11,
    "bfloat16 operands": 2.0**-8,
    "float16 operands": 2.0**-11,
    "bfloat16": 2.0**-8,
    "float16": 2.0**-11,
}
"""Half the distance from 1 to the next number of the coarsest type that an arithmetic rounds to:
8 significant bits in bfloat16, 11 in float16 and tf32."""
EASY_ARMS: tuple[Arm, ...] = ("cross_entropy", "softplus")


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
        easy_batches: Examples of a batch in the block of easy pairs: AdamW, two arms.
        easy_rates: Peak learning rates there.
        easy_temperature: Temperature there.
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
    sgd_infonce_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 0.01, 0.03)
    easy_batches: tuple[int, ...] = (4, 16)
    easy_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    easy_temperature: float = 0.01
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
    easy_batches=(4,),
    easy_rates=(3e-4, 1e-3),
    examples=768,
    least_steps=12,
    most_steps=40,
)
GRIDS = frozenset(
    {"batches", "temperatures", "noise", "draws", "dtypes", "optimizers", "arms", "seeds"}
    | {"adamw_rates", "sgd_rates", "sgd_infonce_rates", "easy_batches", "easy_rates"}
)
"""Settings that say which measurements are made, and nothing about what one of them gives."""


@dataclass(frozen=True)
class RunKey:
    """What tells a run from the others of a study."""

    block: Block
    arm: Arm
    optimizer: Optimizer
    rate: float
    batch: int
    dtype: Dtype
    seed: int


def rates(settings: TrainingSettings, optimizer: Optimizer, arm: Arm) -> tuple[float, ...]:
    """The learning rates that an arm is tried at on the corpus.

    AdamW undoes a gradient's scale, so its rates are the same for all. SGD does not: InfoNCE's
    gradient is smaller by the mean of sigmoid(v), and its rates are larger, though as many.
    """
    if optimizer == "adamw":
        return settings.adamw_rates
    small = arm in ("cross_entropy", "softplus")
    return settings.sgd_infonce_rates if small else settings.sgd_rates


def run_keys(settings: TrainingSettings) -> Iterator[RunKey]:
    """The runs of a study; those that share a compiled step stand together."""
    for batch in settings.batches:
        for dtype in settings.dtypes:
            for optimizer in settings.optimizers:
                for arm in settings.arms:
                    for rate in rates(settings, optimizer, arm):
                        for seed in range(settings.seeds):
                            yield RunKey("corpus", arm, optimizer, rate, batch, dtype, seed)
    for batch in settings.easy_batches:
        for dtype in settings.dtypes:
            for arm in EASY_ARMS:
                for rate in settings.easy_rates:
                    for seed in range(settings.seeds):
                        yield RunKey("easy", arm, "adamw", rate, batch, dtype, seed)


def input_keys(settings: ArithmeticSettings) -> Iterator[dict[str, float]]:
    """The inputs of part one, largest batches last."""
    for batch in settings.batches:
        for temperature in settings.temperatures:
            for noise in settings.noise:
                for draw in range(settings.draws):
                    yield {
                        "batch": batch,
                        "temperature": temperature,
                        "noise": noise,
                        "draw": draw,
                    }
