"""The objective that compares no embeddings: texts are written again from latents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from simjax.errors import UsageError
from simjax.objectives.shared_config import SharedOptions


@dataclass(frozen=True)
class VaeConfig(SharedOptions):
    """A text is predicted from latents of itself, which lie close to a prior (UniVAE).

    Attributes:
        kl_weight: What the divergence of `gaussian` latents from their prior is multiplied by, 1
            in a variational autoencoder; that of `von_mises_fisher` is a constant.
        kl_warmup: Steps over which that weight rises from 0 (KL annealing, arXiv 1511.06349), so
            that latents are used before they are made to be alike.
    """

    name: Literal["vae"] = "vae"
    kl_weight: float = 1.0
    kl_warmup: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.kl_weight < math.inf:
            raise UsageError(f"objective.kl_weight is {self.kl_weight}: give 0 or more")
        if self.kl_warmup < 0:
            raise UsageError(f"objective.kl_warmup is {self.kl_warmup}: give 0 steps or more")
        for key in ("mlm", "seq2seq", "matryoshka"):
            if getattr(self, key) is not None:
                raise UsageError(
                    f"objective.{key} does not go with objective.name vae, which is learned by "
                    "itself; remove it"
                )
