"""Sets that ask a model for more than embeddings: texts that it foresees, classes that it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from simjax.errors import SimjaxError
from simjax.eval.labels import Classify, LabelledSet, accuracy
from simjax.eval.paraphrases import Likelihood, ParaphraseSet, perplexity
from simjax.eval.reconstruction import TextSet

PredictionSet: TypeAlias = LabelledSet | ParaphraseSet | TextSet


@dataclass(frozen=True)
class Predictors:
    """What a model predicts.

    Attributes:
        likelihood: Texts behind others, for paraphrases and reconstructions.
        classify: Classes of pairs, for labels.
    """

    likelihood: Likelihood | None = None
    classify: Classify | None = None


NOTHING = Predictors()
"""What an encoder alone predicts."""


def measure(data: PredictionSet) -> str:
    """Name of the score."""
    return "accuracy" if isinstance(data, LabelledSet) else "perplexity"


def size(data: PredictionSet) -> str:
    """How much the score is taken over."""
    if isinstance(data, LabelledSet):
        return f"{len(data.pairs)} pairs"
    if isinstance(data, ParaphraseSet):
        return f"{len(data.pairs)} paraphrases"
    return f"{len(data.texts)} texts"


def score(name: str, data: PredictionSet, predictors: Predictors) -> float:
    """A perplexity, or an accuracy times 100.

    Args:
        name: What the set is called where it is faulty.
        data: The set.
        predictors: What the model can do.

    Raises:
        NotFiniteError: A perplexity is not finite.
        SimjaxError: The model predicts nothing of the kind.
    """
    try:
        if isinstance(data, LabelledSet):
            if predictors.classify is None:
                raise SimjaxError("the model finds no classes; objective.name softmax trains that")
            return accuracy(data, predictors.classify)
        if predictors.likelihood is None:
            raise SimjaxError("the model predicts no texts; it has no decoder")
        return perplexity(data.behind, predictors.likelihood)
    except SimjaxError as error:
        raise type(error)(f"{name}: {error}") from error
