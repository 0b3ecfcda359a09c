"""What an objective asks of embeddings and examples, held to them before the first step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simjax.data.pipeline import BatchSource
from simjax.errors import SimjaxError, UsageError
from simjax.objectives.classification import space_of
from simjax.objectives.config import (
    AngleConfig,
    ContrastiveConfig,
    CosentConfig,
    CosineConfig,
    DistillationConfig,
    InBatchTensionConfig,
    SigmoidConfig,
    SoftmaxConfig,
    TensionConfig,
    TripletConfig,
)
from simjax.train.config import RunConfig


def check_width(config: RunConfig, width: int) -> None:
    """Refuses embeddings of a width that an objective cannot work on, before texts are tokenised.

    Raises:
        UsageError: Nested widths are beyond the whole one or leave it out, or AnglE's are odd.
    """
    objective = config.objective
    nested = () if objective.matryoshka is None else objective.matryoshka.dimensions
    if nested and max(nested) > width:
        raise UsageError(
            f"objective.matryoshka.dimensions has {max(nested)} and the embeddings are {width} wide"
        )
    if nested and width not in nested:
        raise UsageError(
            f"objective.matryoshka.dimensions has {max(nested)} at most and the embeddings are "
            f"{width} wide: no loss would see the numbers beyond; add {width}"
        )
    if isinstance(objective, AngleConfig):
        for even in (width, *nested):
            if even % 2:
                raise UsageError(
                    f"objective.name is angle, which needs embeddings of an even width, not {even}"
                )


def check_teacher(config: RunConfig, width: int, theirs: int) -> None:
    """Refuses a frozen model whose width an objective cannot learn from, before it embeds texts.

    Args:
        config: Of the run.
        width: Of the embeddings that are trained.
        theirs: Of the frozen model's.

    Raises:
        UsageError: The objective is the teacher's embeddings themselves, and these are wider or
            narrower.
    """
    objective = config.objective
    themselves = isinstance(objective, DistillationConfig) and objective.target in (
        "embedding",
        "cosine",
    )
    if themselves and theirs != width:
        raise UsageError(
            f"objective.teacher: its embeddings are {theirs} wide and the student's {width}; "
            "with objective.target similarity, margin or kl they may differ"
        )


def check_examples(config: RunConfig, source: BatchSource) -> None:
    """Refuses data that an objective cannot learn from.

    Raises:
        SimjaxError: An example's score or class is missing or out of its range, with its number.
        UsageError: The examples have other views than the objective compares.
    """
    objective = config.objective
    name = f"objective.name is {objective.name}"
    others = source.num_views - 1 - source.num_positives  # hard negatives
    if isinstance(objective, CosineConfig | CosentConfig | AngleConfig | SoftmaxConfig):
        _check_views(name, "two texts", 2, source)
    if isinstance(objective, CosineConfig | CosentConfig | AngleConfig):
        _check_scores(name, source)
    if isinstance(objective, CosineConfig):
        _check_range(source, objective.score_range)
    if isinstance(objective, SoftmaxConfig):
        _check_classes(name, source)
        if objective.label_spaces:
            _check_spaces(source.store.label_names, objective.label_spaces)
    ranks = isinstance(objective, DistillationConfig) and objective.target in ("margin", "kl")
    if (isinstance(objective, TripletConfig) or ranks) and (
        source.num_positives != 1 or others < 1
    ):
        raise UsageError(
            f"{name}, which compares an anchor, one positive and hard negatives, and the examples "
            f"have {source.num_positives} positives and {others} hard negatives: name the columns "
            "in data.source"
        )
    if isinstance(objective, CosentConfig | AngleConfig):
        _check_order(name, source)
    if isinstance(objective, ContrastiveConfig | SigmoidConfig | InBatchTensionConfig):
        group = getattr(objective, "negative_group", None) or config.data.batch_size
        if group == 1 and not others:
            raise UsageError(
                f"{name}, and a batch or group of one example has no negatives: give a larger "
                "data.batch_size or objective.negative_group, or hard negatives"
            )
    if (
        isinstance(objective, ContrastiveConfig)
        and objective.hard_negative_weight != 1
        and not others
    ):
        raise UsageError(
            f"objective.hard_negative_weight is {objective.hard_negative_weight:g} and the "
            "examples have no hard negatives to weigh: name them in data.source.negatives, with "
            "data.views columns, or leave it out"
        )
    if isinstance(objective, TensionConfig) and config.data.block <= objective.negatives:
        raise UsageError(
            f"objective.negatives is {objective.negatives} and data.block_size is "
            f"{config.data.block}: the negatives of a sentence are others of its block, so give a "
            "larger block"
        )


def _check_views(name: str, what: str, views: int, source: BatchSource) -> None:
    if source.num_views != views:
        raise UsageError(
            f"{name}, which compares {what}, and the examples have {source.num_views}: name one "
            "anchor and one positive column in data.source"
        )


def _check_scores(name: str, source: BatchSource) -> None:
    missing = np.flatnonzero(np.isnan(source.store.scores))
    if len(missing):
        raise SimjaxError(
            f"{name}, and example {missing[0] + 1} has no score: name the column of scores in "
            "data.source.score"
        )


def _check_order(name: str, source: BatchSource) -> None:
    scores = source.store.scores
    if scores.min() == scores.max():
        raise SimjaxError(
            f"{name}, and all examples have the score {scores[0]:g}: there is nothing to rank"
        )


def _check_range(source: BatchSource, score_range: tuple[float, ...]) -> None:
    low, high = score_range
    scores = source.store.scores
    outside = np.flatnonzero((scores < low) | (scores > high))
    if len(outside):
        raise SimjaxError(
            f"objective.score_range is {low:g} to {high:g}, and example {outside[0] + 1} has the "
            f"score {scores[outside[0]]:g}: give the range of the data, or the same as "
            "data.source.score_range as well, which finds the file and line of what is beyond it"
        )


def _check_classes(name: str, source: BatchSource) -> None:
    missing = np.flatnonzero(source.store.labels < 0)
    if len(missing):
        raise SimjaxError(
            f"{name}, and example {missing[0] + 1} has no class: name the column of classes in "
            "data.source.label, or make classes of all scores by data.source.label_above"
        )
    if len(source.store.label_names) < 2:
        raise SimjaxError(
            f"{name}, and all examples are of the class {source.store.label_names[0]!r}: there is "
            "nothing to tell apart"
        )


def _check_spaces(labels: Sequence[str], spaces: tuple[tuple[str, ...], ...]) -> None:
    members: dict[int, list[str]] = {}
    for label in labels:
        members.setdefault(space_of(label, spaces), []).append(label)
    for found in members.values():
        if len(found) == 1:
            raise SimjaxError(
                f"objective.label_spaces: of the classes beside it no example has another than "
                f"{found[0]!r}: there is nothing to tell apart"
            )
