"""The pair operator: log-sum-exp over negatives, tiled and sharded."""

from simjax.ops.api import pair_lse, row_loss
from simjax.ops.pairs import AnchorIds, FalseNegatives, KeyIds, PairStats
from simjax.ops.sharded import Exchange
from simjax.ops.uniformity import AlignUniform, align_uniform, alignment

__all__ = [
    "AlignUniform",
    "AnchorIds",
    "Exchange",
    "FalseNegatives",
    "KeyIds",
    "PairStats",
    "align_uniform",
    "alignment",
    "pair_lse",
    "row_loss",
]
