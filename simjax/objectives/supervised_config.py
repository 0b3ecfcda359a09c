"""Objectives that learn from labels, scores or a teacher."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from simjax.errors import UsageError
from simjax.objectives.shared_config import SharedOptions


@dataclass(frozen=True)
class CosineConfig(SharedOptions):
    """Sentence-BERT's regression: the cosine of a pair is fitted to its score.

    Attributes:
        score_range: Lowest and highest score of the data, which stand for the cosines 0 and 1;
            (0, 5) for STS-B.
    """

    name: Literal["cosine"] = "cosine"
    score_range: tuple[float, ...] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_range(self.score_range)


def check_range(score_range: tuple[float, ...]) -> None:
    """Refuses what is no range.

    Raises:
        UsageError: It is not two numbers, the lower first.
    """
    low, *rest = score_range or (0.0,)
    if len(rest) != 1 or not -math.inf < low < rest[0] < math.inf:
        raise UsageError(
            f"objective.score_range is {list(score_range)}: give two numbers, the lowest score "
            "and the highest"
        )


@dataclass(frozen=True)
class CosentConfig(SharedOptions):
    """CoSENT: cosines in the order of the scores (kexue.fm 8847).

    Attributes:
        temperature: Of the cosines.
    """

    name: Literal["cosent"] = "cosent"
    temperature: float = 0.05

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)


@dataclass(frozen=True)
class AngleConfig(SharedOptions):
    """AnglE: CoSENT with angles in complex space for cosines (arXiv 2309.12871).

    This is the paper's loss of angles alone, as sentence-transformers has it; its experiments add
    CoSENT and a contrastive loss.

    Attributes:
        temperature: Of the angles.
    """

    name: Literal["angle"] = "angle"
    temperature: float = 0.05

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)


@dataclass(frozen=True)
class RDropConfig:
    """Two passes with different dropout must agree (arXiv 2106.14448).

    Attributes:
        weight: What half of the two divergences' sum is multiplied by.
        form: What it is added to: the sum of both passes' cross-entropies (``paper``) or their
            mean (``repository``, where the same weight counts twice as much).
    """

    weight: float = 1.0
    form: Literal["paper", "repository"] = "paper"

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise UsageError(f"objective.r_drop.weight is {self.weight}: give a number above 0")


@dataclass(frozen=True)
class SoftmaxConfig(SharedOptions):
    """Sentence-BERT's classification of pairs by (u, v, |u - v|) (arXiv 1908.10084).

    Attributes:
        use_bias: Whether the linear layer has one.
        r_drop: A second pass that must agree with the first; null makes one pass.
        label_spaces: Classes that only compete with each other, where sources of different labels
            share the layer, as in RoFormer-Sim: [["0", "1"], ["entailment", "neutral",
            "contradiction"]]. By default all compete.
    """

    name: Literal["softmax"] = "softmax"
    use_bias: bool = True
    r_drop: RDropConfig | None = None
    label_spaces: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class TripletConfig(SharedOptions):
    """Sentence-BERT's triplets: the positive closer than the hard negative by a margin.

    Attributes:
        margin: By how much.
        distance: Between embeddings as they are; ``cosine`` is 1 - cosine.
    """

    name: Literal["triplet"] = "triplet"
    margin: float = 5.0
    distance: Literal["euclidean", "cosine", "manhattan"] = "euclidean"

    def __post_init__(self) -> None:
        if not 0 <= self.margin < math.inf:
            raise UsageError(f"objective.margin is {self.margin}: give 0 or more")


@dataclass(frozen=True)
class DistillationConfig(SharedOptions):
    """A frozen teacher's embeddings or similarities are fitted.

    The teacher embeds every text once, before the first step; its vectors are kept in `data.cache`.

    Attributes:
        teacher: Hugging Face or sentence-transformers folder, or hub id.
        target: What is fitted. ``embedding``: unit vectors, by their mean squared difference;
            ``cosine``: their directions, by 1 - cosine; ``similarity``: the cosines of all pairs of
            texts of the batch, by their mean squared difference; ``margin``: how much closer an
            anchor is to its positive than to its hard negatives (margin-MSE, arXiv 2010.02666);
            ``kl``: softmax probabilities of an anchor's positive and hard negatives, by the
            divergence KL(teacher || student) (arXiv 1503.02531).
        weight: What the loss is multiplied by; RoFormer-Sim has 100 with ``similarity``.
        temperature: Of the cosines that ``kl`` makes probabilities of; null is 1. Its square
            multiplies the divergence, so that the size of the gradient hardly depends on it where
            it is large.
    """

    name: Literal["distillation"] = "distillation"
    teacher: str = ""
    target: Literal["embedding", "cosine", "similarity", "margin", "kl"] = "similarity"
    weight: float = 1.0
    temperature: float | None = None

    def __post_init__(self) -> None:
        if not self.teacher:
            raise UsageError("objective.teacher is missing: name the model whose embeddings count")
        if not 0 < self.weight < math.inf:
            raise UsageError(f"objective.weight is {self.weight}: give a number above 0")
        if self.temperature is not None:
            _check_temperature(self.temperature)
        if self.temperature is not None and self.target != "kl":
            raise UsageError(
                f"objective.temperature is given and objective.target is {self.target}, for which "
                "it means nothing; leave it out, or take target kl"
            )


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise UsageError(f"objective.temperature: {temperature} is not above 0")
