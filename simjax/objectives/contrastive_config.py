"""Objectives that draw an example's texts together and push others apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from simjax.errors import UsageError
from simjax.objectives.shared_config import SharedOptions


@dataclass(frozen=True)
class GuideConfig:
    """A frozen model that says which keys are false negatives (GISTEmbed, arXiv 2402.16829).

    A key is no negative of an anchor where the guide finds the two closer than the anchor and its
    positive. Its embeddings are made before the first step and kept in `data.cache`.

    Attributes:
        model: Hugging Face or sentence-transformers folder, or hub id.
        margin: How far below that of the positive the cosine of a negative must be.
        margin_strategy: `absolute`: the margin is a difference of cosines. `relative`: it is a
            part of the positive's, taken without its sign.
    """

    model: str
    margin: float = 0.0
    margin_strategy: Literal["absolute", "relative"] = "absolute"

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 1:
            raise UsageError(
                f"objective.guide.margin is {self.margin}: give a number from 0 to below 1"
            )


@dataclass(frozen=True)
class ContrastiveConfig(SharedOptions):
    """A contrastive objective: a scalar function of the contrastive log-odds ``v``.

    Attributes:
        loss: ``infonce`` is softplus(v), ``dcl`` is v, ``flatnce`` has DCL's gradient and reports
            InfoNCE's value.
        directions: ``forward`` contrasts each anchor with all keys; ``symmetric`` adds each
            positive against all anchors and takes the mean; ``joint`` puts the negatives of
            anchor-key, key-anchor, anchor-anchor and key-key into one denominator (GTE); ``views``
            contrasts each anchor and each positive with all other texts of both kinds (SimCLR).
        temperature: Scores are cosine / temperature.
        learnable_temperature: Learn log(1 / temperature), starting at `temperature`.
        max_scale: Upper bound of 1 / temperature. Up to 32 the log-sum-exp needs no running
            maximum.
        hard_negative_weight: SimCSE's alpha: weight of an anchor's own hard negatives in the
            denominator. 1 treats them as any other negative.
        false_negatives: Which keys are no negatives besides the anchor's own positive: ``none``;
            ``text``: those with a text of the anchor or of its positive, and the positives of
            anchors with the same text; ``label``: those of the anchor's class.
        negative_group: Negatives are of the anchor's own group of so many examples, of which a
            batch has many; null is the whole batch. It tells what many negatives do from what a
            large batch does.
        guide: A frozen model whose false negatives are left out as well; null asks none.
        uniformity_t: The t of the uniformity that is logged.
    """

    name: Literal["contrastive"] = "contrastive"
    loss: Literal["infonce", "flatnce", "dcl"] = "infonce"
    directions: Literal["forward", "symmetric", "joint", "views"] = "forward"
    temperature: float = 0.05
    learnable_temperature: bool = False
    max_scale: float = 100.0
    hard_negative_weight: float = 1.0
    false_negatives: Literal["none", "text", "label"] = "text"
    negative_group: int | None = None
    guide: GuideConfig | None = None
    uniformity_t: float = 2.0

    def __post_init__(self) -> None:
        check_temperature(self.temperature, self.max_scale)
        check_uniformity(self.uniformity_t)
        if self.learnable_temperature and self.loss != "infonce":
            raise UsageError(
                f"objective.learnable_temperature: {self.loss} is unbounded below in the scale; "
                "use loss infonce or a fixed temperature"
            )
        if self.negative_group is not None and self.negative_group < 1:
            raise UsageError(
                f"objective.negative_group is {self.negative_group}: give at least 1, or null"
            )
        if not self.hard_negative_weight > 0:
            raise UsageError(
                f"objective.hard_negative_weight: {self.hard_negative_weight} is not above 0"
            )


@dataclass(frozen=True)
class SigmoidConfig(SharedOptions):
    """Each pair of a batch by itself: is it one? SigLIP (arXiv 2303.15343).

    Attributes:
        temperature: Scores are cosine / temperature + bias; where the learned ones start.
        bias: Where the learned bias starts.
        learnable: Learn both.
        max_scale: Upper bound of 1 / temperature.
        false_negatives: As of the contrastive objective: which pairs do not count.
        uniformity_t: The t of the uniformity that is logged.
    """

    name: Literal["sigmoid"] = "sigmoid"
    temperature: float = 0.1
    bias: float = -10.0
    learnable: bool = True
    max_scale: float = 100.0
    false_negatives: Literal["none", "text", "label"] = "text"
    uniformity_t: float = 2.0

    def __post_init__(self) -> None:
        check_temperature(self.temperature, self.max_scale)
        check_uniformity(self.uniformity_t)


@dataclass(frozen=True)
class TensionConfig(SharedOptions):
    """Contrastive Tension (Carlsson et al. 2021): do two encoders have the same sentence?

    Two encoders that start alike and are not tied embed every sentence. The dot product of one's
    vector with the other's is the logit of their being of one sentence. The second is exported.

    Attributes:
        negatives: Pairs of different sentences for each pair of one.
        reduction: Of the cross-entropies: their sum (sentence-transformers) or mean (the authors').
    """

    name: Literal["tension"] = "tension"
    negatives: int = 7
    reduction: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        if self.negatives < 1:
            raise UsageError(f"objective.negatives is {self.negatives}: give at least 1")


@dataclass(frozen=True)
class InBatchTensionConfig(SharedOptions):
    """Contrastive Tension with all other sentences of the batch as negatives, both ways.

    Attributes:
        temperature: Scores are cosine / temperature; where the learned one starts.
        learnable_temperature: Learn log(1 / temperature).
        max_scale: Upper bound of 1 / temperature.
        false_negatives: As of the contrastive objective.
    """

    name: Literal["tension_in_batch"] = "tension_in_batch"
    temperature: float = 0.05
    learnable_temperature: bool = True
    max_scale: float = 100.0
    false_negatives: Literal["none", "text", "label"] = "text"

    def __post_init__(self) -> None:
        check_temperature(self.temperature, self.max_scale)


def check_temperature(temperature: float, max_scale: float) -> None:
    """Refuses a temperature that is none, or beyond its bound.

    Raises:
        UsageError: Naming the key.
    """
    if not temperature > 0:
        raise UsageError(f"objective.temperature: {temperature} is not above 0")
    if 1 / temperature > max_scale * (1 + 1e-6):
        raise UsageError(
            f"objective.temperature: 1 / {temperature} is above objective.max_scale {max_scale}; "
            "raise one of them"
        )


def check_uniformity(t: float) -> None:
    """Refuses a width of the Gaussian kernel that is none.

    Raises:
        UsageError: Naming the key.
    """
    if not 0 < t < math.inf:
        raise UsageError(f"objective.uniformity_t: {t} is no number above 0")
