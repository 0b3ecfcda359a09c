"""What all objectives have: what is learned beside them, or from parts of the embeddings."""

from __future__ import annotations

from dataclasses import dataclass

from simjax.errors import UsageError


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
class MatryoshkaConfig:
    """The loss of the first numbers of each embedding, for several widths (arXiv 2205.13147).

    Attributes:
        dimensions: How many of the first numbers; the whole width has to be among them.
        weights: What each one's loss is multiplied by before they are added; by default 1.
    """

    dimensions: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        given = self.dimensions
        if not given or min(given) < 1 or len({*given}) < len(given):
            raise UsageError(
                f"objective.matryoshka.dimensions is {list(given)}: give widths of 1 or more, each "
                "once, such as [384, 192, 96]"
            )
        if self.weights and len(self.weights) != len(given):
            raise UsageError(
                f"objective.matryoshka.weights has {len(self.weights)} numbers for {len(given)} "
                "dimensions: give one for each, or none"
            )
        if not all(0 < weight < float("inf") for weight in self.weights):
            raise UsageError(
                f"objective.matryoshka.weights is {list(self.weights)}: give numbers above 0"
            )


@dataclass(frozen=True)
class SharedOptions:
    """What every objective has.

    Attributes:
        name: The objective.
        mlm: Masked language modelling that is learned beside it, at the cost of a second pass
            through the encoder; null learns none.
        seq2seq: Prediction of the text behind from the one in front, where `data.views` is
            `paraphrases`; null learns none.
        matryoshka: The same loss of the first numbers of the embeddings as well, so that they can
            be cut; null trains the whole of them alone.
    """

    name: str = ""
    mlm: MaskedLmConfig | None = None
    seq2seq: Seq2SeqConfig | None = None
    matryoshka: MatryoshkaConfig | None = None
