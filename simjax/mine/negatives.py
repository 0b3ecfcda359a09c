"""Hard negatives for anchors, by the similarities of a model.

The rules are those of sentence-transformers' `mine_hard_negatives`, with two differences: a text
counts as the anchor's or a positive's by its normalised form (`simjax.data.identity`), and ranks
count from the nearest text that is neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int

from simjax.errors import UsageError


@dataclass(frozen=True)
class MiningConfig:
    """Which of the nearest texts become negatives.

    Attributes:
        negatives: Negatives per anchor.
        range_min: Nearest candidates that are passed over: they may be positives that nobody
            marked.
        range_max: Nearest texts, the anchor's own and its positives not counted, that are
            candidates. By default `range_min + negatives` and as many as the most positives of
            an anchor, with ten times the negatives where some may be refused by a score.
        max_score: Candidates that are more similar to the anchor are refused.
        min_score: Candidates that are less similar are.
        absolute_margin: Candidates are refused unless their similarity is this much below that of
            the anchor's least similar positive.
        relative_margin: The same, as a share of that similarity's magnitude: 0.05 is the setting
            of NV-Retriever (Moreira et al. 2024, arXiv 2407.15831), TopK-PercPos at 95 %.
        sampling: `top` takes the nearest candidates, `random` any of them.
        seed: Of `random`.
    """

    negatives: int = 3
    range_min: int = 0
    range_max: int | None = None
    max_score: float | None = None
    min_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    sampling: Literal["top", "random"] = "top"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.negatives < 1:
            raise UsageError(f"negatives {self.negatives}: must be at least 1")
        if self.seed < 0:
            raise UsageError(f"seed {self.seed}: must be at least 0")
        for name in ("max_score", "min_score", "absolute_margin", "relative_margin"):
            if getattr(self, name) is not None and math.isnan(getattr(self, name)):
                raise UsageError(f"{name} is no number")
        if self.range_min < 0:
            raise UsageError(f"range_min {self.range_min}: must be at least 0")
        if self.range_max is not None and self.range_max - self.range_min < self.negatives:
            raise UsageError(
                f"range_max {self.range_max}: leaves fewer than {self.negatives} candidates after "
                f"the first {self.range_min}"
            )

    def depth(self, most_positives: int) -> int:
        """`range_max`, or its default."""
        if self.range_max is not None:
            return self.range_max
        refusing = (self.max_score, self.absolute_margin, self.relative_margin)
        times = 1 if all(limit is None for limit in refusing) else 10
        return self.range_min + times * self.negatives + most_positives


@dataclass
class Refused:
    """How many candidates were refused, and why."""

    counts: dict[str, int] = field(default_factory=dict)
    candidates: int = 0

    def by(self, name: str, refused: Bool[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
        """Count some, and return which are left."""
        self.counts[name] = self.counts.get(name, 0) + int(refused.sum())
        return ~refused


def choose(
    scores: Float32[np.ndarray, "n"],
    texts: Int[np.ndarray, "n"],
    own: Sequence[int],
    positive_score: float,
    depth: int,
    config: MiningConfig,
    refused: Refused,
    *,
    number: int,
) -> Int[np.ndarray, "m"]:
    """The negatives of one anchor among the texts nearest to it.

    Args:
        scores: Similarities of the nearest texts, from the highest down.
        texts: Which texts they are; -1 for none.
        own: Texts that are no negatives: the anchor's own, and its positives.
        positive_score: Similarity of the anchor's least similar positive.
        depth: Candidates, from `MiningConfig.depth`.
        config: The rules.
        refused: Keeps count.
        number: Number of the anchor, which seeds its sampling.

    Returns:
        At most `config.negatives` texts, the nearest first.
    """
    others = (texts >= 0) & ~np.isin(texts, own)
    scores, texts = scores[others][:depth], texts[others][:depth]
    refused.candidates += len(texts)
    limits = {
        "absolute_margin": (config.absolute_margin, lambda m: scores + m > positive_score),
        "relative_margin": (
            config.relative_margin,
            lambda m: scores > positive_score - abs(positive_score) * m,
        ),
        "max_score": (config.max_score, lambda limit: scores > limit),
        "min_score": (config.min_score, lambda limit: scores < limit),
    }
    for name, (limit, refuses) in limits.items():
        if limit is not None:
            left = refused.by(name, refuses(limit))
            scores, texts = scores[left], texts[left]
    texts = texts[config.range_min :]
    if config.sampling == "random" and len(texts) > config.negatives:
        rng = np.random.default_rng((config.seed, number))
        texts = texts[np.sort(rng.choice(len(texts), config.negatives, replace=False))]
    return texts[: config.negatives]
