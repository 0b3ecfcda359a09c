"""The best of the steps that are saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal


def best_step(
    metrics: Mapping[int, Mapping[str, float]], name: str | None, mode: Literal["max", "min"]
) -> int | None:
    """The step with the best figure, the earliest of equals.

    Args:
        metrics: Of each step.
        name: Which of them; None finds no step. One without it, or with NaN, is not the best.
        mode: Whether the highest or the lowest is best.
    """
    if name is None:
        return None
    sign = 1.0 if mode == "max" else -1.0
    scores = {step: sign * found[name] for step, found in metrics.items() if name in found}
    scores = {step: score for step, score in scores.items() if score == score}
    return max(scores, key=lambda step: (scores[step], -step)) if scores else None
