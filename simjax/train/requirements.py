"""What an objective asks of the examples, held to the data before the first step."""

from __future__ import annotations

import numpy as np

from simjax.data.pipeline import BatchSource
from simjax.errors import SimjaxError, UsageError
from simjax.objectives.config import ContrastiveConfig, CosineConfig, ObjectiveConfig


def check_examples(objective: ObjectiveConfig, source: BatchSource) -> None:
    """Refuses data that an objective cannot learn from.

    Raises:
        SimjaxError: A score is missing or out of its range, with the example's number.
        UsageError: The examples have other views than the objective compares.
    """
    if isinstance(objective, ContrastiveConfig):
        return
    if isinstance(objective, CosineConfig):
        _check_pairs(objective.name, source)
        _check_scores(objective.name, source, objective.score_range)


def _check_pairs(name: str, source: BatchSource) -> None:
    if source.num_views != 2:
        raise UsageError(
            f"objective.name is {name}, which compares two texts, and the examples have "
            f"{source.num_views}: name one anchor and one positive column in data.source"
        )


def _check_scores(name: str, source: BatchSource, score_range: tuple[float, ...]) -> None:
    low, high = score_range
    scores = source.store.scores
    missing = np.flatnonzero(np.isnan(scores))
    if len(missing):
        raise SimjaxError(
            f"objective.name is {name}, and example {missing[0] + 1} has no score: name its column "
            "in data.source.score"
        )
    outside = np.flatnonzero((scores < low) | (scores > high))
    if len(outside):
        raise SimjaxError(
            f"objective.score_range is {low:g} to {high:g}, and example {outside[0] + 1} has the "
            f"score {scores[outside[0]]:g}: give the range of the data"
        )
