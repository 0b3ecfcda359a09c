"""The pair operator: reductions of the scores of all pairs, tiled and sharded."""

from simjax.ops.api import reduce_pairs, row_loss
from simjax.ops.pairs import AnchorIds, FalseNegatives, Guide, KeyIds
from simjax.ops.ranking import ranking_loss
from simjax.ops.reductions import PairStats, Reduction
from simjax.ops.sharded import Exchange
from simjax.ops.uniformity import AlignUniform, align_uniform, alignment

__all__ = [
    "AlignUniform",
    "AnchorIds",
    "Exchange",
    "FalseNegatives",
    "Guide",
    "KeyIds",
    "PairStats",
    "Reduction",
    "align_uniform",
    "alignment",
    "ranking_loss",
    "reduce_pairs",
    "row_loss",
]
