"""The choice of objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simjax.errors import UsageError


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
class MaskedLmConfig:
    """Masked language modelling beside the contrastive objective.

    Attributes:
        weight: What its loss is multiplied by before it is added.
        rate: Share of the tokens that are to be predicted.
    """

    weight: float = 0.1
    rate: float = 0.15

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise UsageError(f"objective.mlm.weight is {self.weight}: give a number above 0")
        if not 0 < self.rate <= 1:
            raise UsageError(f"objective.mlm.rate is {self.rate}: give a number above 0, up to 1")


@dataclass(frozen=True)
class Seq2SeqConfig:
    """Prediction of the paraphrase behind a text from that text, as SimBERT learns it.

    Attributes:
        weight: What its loss is multiplied by before it is added.
        corrupted: Share of the texts in front of which some words are masked, as RoFormer-Sim does
            with half of them. Words are what `##` joins; without it each token is one, so that
            Chinese words are those of a vocabulary of words and else characters.
        rate: Share of the words of such a text.
    """

    weight: float = 1.0
    corrupted: float = 0.0
    rate: float = 0.15

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise UsageError(f"objective.seq2seq.weight is {self.weight}: give a number above 0")
        for key in ("corrupted", "rate"):
            value = getattr(self, key)
            if not 0 <= value <= 1:
                raise UsageError(f"objective.seq2seq.{key} is {value}: give a number from 0 to 1")


@dataclass(frozen=True)
class ObjectiveConfig:
    """A contrastive objective: a scalar function of the contrastive log-odds ``v``.

    Attributes:
        loss: ``infonce`` is softplus(v), ``dcl`` is v, ``flatnce`` has DCL's gradient and reports
            InfoNCE's value.
        directions: ``forward`` contrasts each anchor with all keys; ``symmetric`` adds each
            positive against all anchors and takes the mean; ``joint`` puts the negatives of
            anchor-key, key-anchor, anchor-anchor and key-key into one denominator (GTE).
        temperature: Scores are cosine / temperature.
        learnable_temperature: Learn log(1 / temperature), starting at `temperature`.
        max_scale: Upper bound of 1 / temperature. Up to 40 the log-sum-exp needs no running
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
        mlm: Masked language modelling that is learned beside it, at the cost of a second pass
            through the encoder; null learns none.
        seq2seq: Prediction of the text behind from the one in front, where `data.views` is
            `paraphrases`; null learns none.
        uniformity_t: The t of the uniformity that is logged.
    """

    loss: Literal["infonce", "flatnce", "dcl"] = "infonce"
    directions: Literal["forward", "symmetric", "joint"] = "forward"
    temperature: float = 0.05
    learnable_temperature: bool = False
    max_scale: float = 100.0
    hard_negative_weight: float = 1.0
    false_negatives: Literal["none", "text", "label"] = "text"
    negative_group: int | None = None
    guide: GuideConfig | None = None
    mlm: MaskedLmConfig | None = None
    seq2seq: Seq2SeqConfig | None = None
    uniformity_t: float = 2.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UsageError(f"objective.temperature: {self.temperature} is not above 0")
        if 1 / self.temperature > self.max_scale * (1 + 1e-6):
            raise UsageError(
                f"objective.temperature: 1 / {self.temperature} is above objective.max_scale "
                f"{self.max_scale}; raise one of them"
            )
        if self.learnable_temperature and self.loss != "infonce":
            raise UsageError(
                f"objective.learnable_temperature: {self.loss} is unbounded below in the scale; "
                "use loss infonce or a fixed temperature"
            )
        if self.mlm is not None and self.seq2seq is not None:
            raise UsageError(
                "objective.mlm and objective.seq2seq are given, which learn one head; remove one"
            )
        if self.negative_group is not None and self.negative_group < 1:
            raise UsageError(
                f"objective.negative_group is {self.negative_group}: give at least 1, or null"
            )
        if not self.hard_negative_weight > 0:
            raise UsageError(
                f"objective.hard_negative_weight: {self.hard_negative_weight} is not above 0"
            )
