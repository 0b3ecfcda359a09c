"""The contrastive objective as it is published, row by row and in PyTorch's float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch

from simjax.objectives.config import ContrastiveConfig

Text = tuple[int, int]
"""The number of an example, and a view of it."""
OfLogOdds = Callable[[torch.Tensor, str], torch.Tensor]
"""A function of v and of the direction that it is from."""


class Definition:
    """v_i = log sum over negatives exp(s_ij - s_ip), and a published function of it.

    Args:
        x: [n, V, D], of any length: an anchor, positives, hard negatives.
        config: The objective.
        ids: [n, V], equal where texts are, -1 for one that is absent.
        labels: [n], -1 where unknown.
        positives: How many of the views.
    """

    def __init__(
        self,
        x: np.ndarray,
        config: ContrastiveConfig,
        ids: np.ndarray,
        labels: np.ndarray,
        positives: int,
    ) -> None:
        # Absent texts are asked about nowhere.
        given = np.where((ids == -1)[..., None], 1.0, x)
        self.x = torch.tensor(given, dtype=torch.float64, requires_grad=True)
        unit = torch.nn.functional.normalize(self.x, dim=-1)
        self.scores = torch.einsum("avd,bwd->avbw", unit, unit) / config.temperature
        self.config, self.ids, self.labels, self.positives = config, ids, labels, positives
        self.n, self.views, _ = x.shape

    def negative(self, a: Text, b: Text) -> bool:
        """May b be a negative of a? Own examples are not asked about."""
        ids, positives = self.ids, range(1, 1 + self.positives)
        if ids[b] == -1 or ids[a] == -1 or a[0] == b[0]:
            return False
        if self.config.false_negatives == "label":
            labelled = self.labels[a[0]] >= 0 and self.labels[a[0]] == self.labels[b[0]]
            return not (labelled and a[1] <= self.positives and b[1] <= self.positives)
        if self.config.false_negatives == "none":
            return True

        def partners(t: Text) -> set[int]:
            if t[1] == 0:
                return {int(ids[t[0], p]) for p in positives if ids[t[0], p] != -1}
            return {int(ids[t[0], 0])} if t[1] <= self.positives else set()

        related = ids[a] == ids[b] or ids[b] in partners(a) or ids[a] in partners(b)
        if (a[1] == 0 and b[1] == 0) or (a[1] > 0 and b[1] > 0):
            related = related or bool(partners(a) & partners(b))
        return not related

    def own_hard(self, i: int) -> Iterator[torch.Tensor]:
        """Scores of an anchor and its own hard negatives, SimCSE's weight in them."""
        taken = {int(self.ids[i, v]) for v in range(1 + self.positives)}
        for h in range(1 + self.positives, self.views):
            if self.ids[i, h] == -1:
                continue
            if self.config.false_negatives == "text" and int(self.ids[i, h]) in taken:
                continue
            yield self.scores[i, 0, i, h] + np.log(self.config.hard_negative_weight)

    def log_odds(self, i: int, p: int, direction: str) -> torch.Tensor:
        """v of an anchor and one of its positives; -inf without negatives."""
        others = list(itertools.product(range(self.n), range(1, self.views)))
        anchors = [(j, 0) for j in range(self.n)]
        anchor, positive = self.scores[i, 0], self.scores[i, p]
        terms = []
        if direction in ("forward", "joint", "anchors with all"):
            terms += [anchor[t] for t in others if self.negative((i, 0), t)]
            terms += list(self.own_hard(i))
        if direction in ("backward", "joint", "positives with all"):
            terms += [positive[a] for a in anchors if self.negative(a, (i, p))]
        if direction in ("joint", "anchors with all"):
            terms += [anchor[a] for a in anchors if self.negative((i, 0), a)]
        if direction in ("joint", "positives with all"):
            terms += [positive[t] for t in others if self.negative((i, p), t)]
        if not terms:
            return torch.tensor(-torch.inf, dtype=torch.float64)
        return (torch.stack(terms) - anchor[i, p]).logsumexp(0)

    def minimised(self, v: torch.Tensor, direction: str) -> torch.Tensor:
        """InfoNCE (arXiv 1807.03748), DCL (2110.06848) or FlatNCE (2107.01152)."""
        if self.config.loss == "dcl":
            return v
        if self.config.loss == "flatnce":
            return torch.exp(v - v.detach())
        # The partition of GTE (arXiv 2308.03281) holds the positive from either side.
        return torch.log((2 if direction == "joint" else 1) + torch.exp(v))

    def reported(self, v: torch.Tensor, direction: str) -> torch.Tensor:
        """FlatNCE is 1 whatever v is, so InfoNCE stands for it."""
        if self.config.loss == "flatnce":
            return torch.nn.functional.softplus(v)
        return self.minimised(v, direction)

    def loss(self) -> float:
        """What is reported."""
        return self.mean(self.reported).item()

    def gradient(self, of: OfLogOdds | None = None) -> np.ndarray:
        """For all of `x`, of what is minimised or of another function."""
        (found,) = torch.autograd.grad(self.mean(of or self.minimised), self.x)
        return found.numpy()

    def mean(self, of: OfLogOdds) -> torch.Tensor:
        """Over directions, anchors, and each anchor's positives."""
        directions = {
            "forward": ["forward"],
            "symmetric": ["forward", "backward"],
            "joint": ["joint"],
            "views": ["anchors with all", "positives with all"],
        }[self.config.directions]
        return torch.stack([self.over_anchors(of, direction) for direction in directions]).mean()

    def over_anchors(self, of: OfLogOdds, direction: str) -> torch.Tensor:
        """Only InfoNCE has a limit for anchors without negatives; the others leave them out."""
        rows = []
        for i in range(self.n):
            real = [p for p in range(1, 1 + self.positives) if self.ids[i, p] != -1]
            odds = [self.log_odds(i, p, direction) for p in real]
            if self.config.loss != "infonce":
                odds = [v for v in odds if v > -torch.inf]
            if odds:
                rows.append(torch.stack([of(v, direction) for v in odds]).mean())
        return torch.stack(rows).mean()
