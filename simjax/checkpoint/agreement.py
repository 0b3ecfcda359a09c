"""What process 0 has found on the disk, known to all processes of a run."""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental import multihost_utils


def from_leader(steps: list[int]) -> list[int]:
    """The ``steps`` of process 0; all processes call this together.

    One process may see a fault that the others do not, and all have to act on it alike.
    """
    if jax.process_count() == 1:
        return steps
    count = int(multihost_utils.broadcast_one_to_all(np.int32(len(steps))))
    mine = steps if jax.process_index() == 0 else [0] * count
    said = np.asarray(mine, np.int32)
    return np.asarray(multihost_utils.broadcast_one_to_all(said)).tolist() if count else []
