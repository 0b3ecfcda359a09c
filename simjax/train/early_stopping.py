"""Ends a run whose score has stopped getting better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

PREFIX = "early_stopping/"
"""Of the figures that a checkpoint keeps of it."""


@dataclass(frozen=True)
class EarlyStopping:
    """The best score of a run, and how many evaluations ago it was.

    Attributes:
        patience: Evaluations without a better score after which to stop; None never stops.
        min_change: By how much a score must be better than the best before.
        higher_is_better: Else lower.
        best: Best score so far.
        stale: Evaluations since.
    """

    patience: int | None
    min_change: float = 0.0
    higher_is_better: bool = True
    best: float | None = None
    stale: int = 0

    def after(self, score: float) -> EarlyStopping:
        """What it is after one more evaluation; a score of NaN is no better than any."""
        sign = 1 if self.higher_is_better else -1
        if score == score and (self.best is None or sign * (score - self.best) > self.min_change):
            return replace(self, best=score, stale=0)
        return replace(self, stale=self.stale + 1)

    @property
    def reached(self) -> bool:
        """Whether to stop."""
        return self.patience is not None and self.stale >= self.patience

    def figures(self) -> dict[str, float]:
        """What a checkpoint keeps, for `restored`."""
        if self.patience is None:
            return {}
        best = {} if self.best is None else {f"{PREFIX}best": self.best}
        return best | {f"{PREFIX}stale": float(self.stale)}

    def restored(self, figures: Mapping[str, float]) -> EarlyStopping:
        """As it was when a checkpoint with these figures was saved."""
        best, stale = figures.get(f"{PREFIX}best"), figures.get(f"{PREFIX}stale", 0)
        return replace(self, best=best, stale=int(stale))
