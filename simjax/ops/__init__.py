"""The pair operator: log-sum-exp over negatives, tiled and sharded."""

from simjax.ops.api import pair_lse, row_loss
from simjax.ops.pairs import AnchorIds, FalseNegatives, KeyIds, PairStats

__all__ = ["AnchorIds", "FalseNegatives", "KeyIds", "PairStats", "pair_lse", "row_loss"]
