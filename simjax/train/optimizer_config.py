"""Optimisers by name, each with options of its own.

The defaults of the learning rate are of one kind: they change weights of the size that encoders
have by about a thousandth a step, as AdamW does at 5e-5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, get_args, get_type_hints

from simjax.errors import UsageError

_FRACTION = (lambda x: 0 <= x < 1, "give a number from 0 to below 1")
_ABOVE_0 = (lambda x: 0 < x < math.inf, "give a number above 0")
_ABOVE_0_OR_NULL = (lambda x: x is None or 0 < x < math.inf, "give a number above 0, or null")
_FROM_1 = (lambda x: x >= 1, "give 1 or more")

_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "learning_rate": _ABOVE_0,
    "reference_batch_size": _FROM_1,
    "warmup": (
        lambda x: 0 <= x < 1 or (x >= 1 and x == int(x)),
        "give a fraction of the steps below 1, or a whole number of steps",
    ),
    "stair_steps": (lambda x: x is None or x >= 1, "give 1 or more, or null"),
    "weight_decay": (lambda x: 0 <= x < math.inf, "give 0 or more"),
    "clip_norm": _ABOVE_0_OR_NULL,
    "layer_decay": (lambda x: 0 < x <= 1, "give a number above 0, at most 1"),
    "b1": _FRACTION,
    "b2": _FRACTION,
    "eps": _ABOVE_0,
    "momentum": _FRACTION,
    "decay": _FRACTION,
    "trust_coefficient": _ABOVE_0,
    "decay_exponent": (lambda x: 0 < x <= 1, "give a number above 0, at most 1"),
    "clip_rms": _ABOVE_0_OR_NULL,
    "factored_from": _FROM_1,
    "iterations": _FROM_1,
    "update_rms": _ABOVE_0,
    "averaging_power": (lambda x: 0 <= x < math.inf, "give 0 or more"),
}


@dataclass(frozen=True)
class SharedOptions:
    """What every optimiser has.

    Attributes:
        name: the optimiser.
        learning_rate: peak learning rate, before ``lr_scaling``.
        lr_scaling: how the peak grows with batch_size / reference_batch_size: none, its square
            root, or linear.
        reference_batch_size: batch size at which ``learning_rate`` holds as it stands.
        schedule: what follows the warm-up: linear or cosine decay to 0, constant, or stairs: five
            parts at 1, 0.8, 0.6, 0.4 and 0.2 of the peak.
        stair_steps: steps of each stair but the last, which lasts to the end (500 for those who
            published Contrastive Tension); null makes all five equal.
        warmup: below 1 a fraction of all steps (rounded up), from 1 on a number of steps.
        weight_decay: decay of kernels and embeddings, times the learning rate; biases, norms and
            temperatures never decay. Part of the gradient in sgd and lars, of the update whose
            length is then chosen in lamb, apart from the update in the others.
        clip_norm: largest global gradient norm; null never clips.
        layer_decay: the learning rate of the last layer is this times that of the heads, of the
            layer below it this squared, and so on down to the embeddings. 1 makes no difference.
    """

    name: str = ""
    learning_rate: float = 5e-5
    lr_scaling: Literal["none", "sqrt", "linear"] = "none"
    reference_batch_size: int = 256
    schedule: Literal["linear", "cosine", "constant", "stairs"] = "linear"
    stair_steps: int | None = None
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float | None = 1.0
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value = getattr(self, field.name)
            words = get_args(hints[field.name])
            if field.name in _RANGES:
                fits, mend = _RANGES[field.name]
                if not fits(value):
                    raise UsageError(f"optimizer.{field.name} is {value!r}: {mend}")
            elif words and value not in words:
                raise UsageError(f"optimizer.{field.name} is {value!r}: give {' or '.join(words)}")
        if self.stair_steps is not None and self.schedule != "stairs":
            raise UsageError(
                f"optimizer.stair_steps is {self.stair_steps} and optimizer.schedule "
                f"{self.schedule}: only stairs have any"
            )


@dataclass(frozen=True)
class AdamW(SharedOptions):
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101).

    Attributes:
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the root of the second moment.
    """

    name: Literal["adamw"] = "adamw"
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8


@dataclass(frozen=True)
class Lamb(SharedOptions):
    """LAMB (You et al. 2020, arXiv 1904.00962): Adam's update, as long as the weights are.

    The length of an update of each kernel and embedding of each layer is the learning rate times
    the norm of what it updates. Biases and norms, which do not decay, are updated as by Adam.

    Attributes:
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the root of the second moment.
    """

    name: Literal["lamb"] = "lamb"
    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6


@dataclass(frozen=True)
class Lars(SharedOptions):
    """LARS (You et al. 2017, arXiv 1708.03888): momentum over gradients as long as the weights.

    As in LAMB, only what decays has its length chosen, layer by layer.

    Attributes:
        momentum: decay of the sum of the updates.
        nesterov: look ahead by one update.
        trust_coefficient: length of a gradient, in parts of the weights' norm, at learning rate 1.
    """

    name: Literal["lars"] = "lars"
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    trust_coefficient: float = 1e-3


@dataclass(frozen=True)
class Adafactor(SharedOptions):
    """Adafactor (Shazeer & Stern 2018, arXiv 1804.04235): row and column means of squares.

    Attributes:
        decay_exponent: update n (from 1) decays the squares before it by 1 - n^-decay_exponent.
        clip_rms: largest root mean square of an update before the learning rate; null never clips.
        relative: updates are in proportion to the root mean square of what they update.
        factored_from: matrices of at least so many rows and columns keep means, not all squares.
        eps: added to squared gradients.
    """

    name: Literal["adafactor"] = "adafactor"
    learning_rate: float = 1e-3
    decay_exponent: float = 0.8
    clip_rms: float | None = 1.0
    relative: bool = True
    factored_from: int = 128
    eps: float = 1e-30


@dataclass(frozen=True)
class Muon(SharedOptions):
    """Muon (Jordan et al. 2024) for the matrices of the layers, AdamW for all other parameters.

    The momentum of a matrix is made nearly orthogonal by Newton-Schulz iterations, queries, keys
    and values each by themselves, and scaled by sqrt(max(rows, columns)) * update_rms (Liu et al.
    2025, arXiv 2502.16982), so that one learning rate, of AdamW's size, does for all.

    Attributes:
        momentum: decay of the momentum.
        nesterov: look ahead by one gradient.
        iterations: of Newton and Schulz.
        update_rms: root mean square of an update of a matrix at learning rate 1.
        b1: AdamW's decay of the first moment.
        b2: AdamW's decay of the second moment.
        eps: added to AdamW's root of the second moment, and to the norm of a matrix.
    """

    name: Literal["muon"] = "muon"
    momentum: float = 0.95
    nesterov: bool = True
    iterations: int = 5
    update_rms: float = 0.2
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8


@dataclass(frozen=True)
class ScheduleFreeAdamW(SharedOptions):
    """Schedule-free AdamW (Defazio et al. 2024, arXiv 2405.15682).

    Gradients are taken between the newest parameters and their average; the average, which takes
    the place of a falling learning rate, is what is evaluated and exported.

    Attributes:
        schedule: constant, behind the warm-up.
        b1: weight of the average where gradients are taken.
        b2: decay of the second moment.
        eps: added to the root of the second moment.
        averaging_power: parameters count in the average by the learning rate to this power.
    """

    name: Literal["schedule_free_adamw"] = "schedule_free_adamw"
    schedule: Literal["constant"] = "constant"
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    averaging_power: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.b1 == 0:
            raise UsageError("optimizer.b1 is 0: the average needs a weight above 0")


@dataclass(frozen=True)
class SGD(SharedOptions):
    """Gradient descent with momentum, PyTorch's.

    Attributes:
        momentum: decay of the sum of the gradients.
        nesterov: look ahead by one gradient.
    """

    name: Literal["sgd"] = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False


@dataclass(frozen=True)
class RMSProp(SharedOptions):
    """RMSprop, PyTorch's: gradients over the root of a moving mean of their squares.

    Attributes:
        decay: of the mean of squares.
        momentum: decay of the sum of the updates.
        eps: added to the root.
    """

    name: Literal["rmsprop"] = "rmsprop"
    learning_rate: float = 1e-5
    decay: float = 0.99
    momentum: float = 0.0
    eps: float = 1e-8


OptimizerConfig: TypeAlias = (
    AdamW | Lamb | Lars | Adafactor | Muon | ScheduleFreeAdamW | SGD | RMSProp
)
"""An optimiser and its options; `optimizer.name` says which."""
