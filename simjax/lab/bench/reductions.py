"""The pair operator by itself: what columns and further scales add to the rows of one scale.

All of them make each score once forward and once backward, four products in all. The objective of
one direction takes three (`simjax.ops.row_loss`), so the symmetric loss is compared with rows that
take four.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simjax.lab.bench.report import Goal

SCALE = 20.0
ROWS = "operator, rows"
BOTH = "operator, rows and columns"
WATCHED = "operator, rows and uniformity"
TWO = "operator, rows at two scales"
NAMES = (ROWS, BOTH, WATCHED, TWO)
GOALS = {
    BOTH: Goal(1.15, "at most"),
    WATCHED: Goal(1.10, "at most"),
    TWO: Goal(1.10, "at most"),
}
"""Of the time of `ROWS`."""


def loss(x: Any, *, name: str, dtype: str, implementation: Any = None) -> Any:
    """A sum over rows, and columns, of log-sum-exps of the pairs of unit vectors [B, 2, D]."""
    import jax
    import jax.numpy as jnp

    from simjax.ops import AnchorIds, KeyIds, Reduction, reduce_pairs

    number = jnp.arange(x.shape[0], dtype=jnp.int32)
    unknown = jnp.full_like(number, -1)
    anchors = AnchorIds(number, 2 * number, 2 * number[:, None] + 1, unknown)
    keys = KeyIds(number, 2 * number + 1, 2 * number[:, None], unknown)
    kinds = [Reduction(SCALE, max_scale=SCALE, columns=name == BOTH)]
    if name == WATCHED:
        kinds.append(Reduction(4.0, over="spread", max_scale=4.0, counted=True, gradient=False))
    if name == TWO:
        kinds.append(Reduction(SCALE / 4, over="none", max_scale=SCALE))
    options = {"dtype": jnp.dtype(dtype), "implementation": implementation}
    stats = reduce_pairs(x[:, 0], x[:, 1], anchors, keys, kinds, **options)
    reduced = [*stats.rows, *(col for col in stats.cols if col is not None)]
    return sum(jax.nn.softplus(lse).sum() for lse in reduced) / np.float32(len(x))
