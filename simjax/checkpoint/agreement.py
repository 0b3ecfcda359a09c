"""What the processes of a run know of each other's work on checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Num

from simjax.processes import roll_call


def of_all_processes(values: Num[np.ndarray, "n"]) -> Num[np.ndarray, "P n"]:
    """What each process has to say, in the order of the processes; all call this together.

    It goes in bytes, since JAX has no 64 bits unless asked.
    """
    heard = multihost_utils.process_allgather(values.view(np.uint8))
    return np.ascontiguousarray(heard).reshape(-1, values.nbytes).view(values.dtype)


def scores_from_leader(scores: dict[str, float]) -> dict[str, float]:
    """The ``scores`` of process 0; all processes call this together, with the same names.

    Last digits may differ between hosts, and what follows from scores must not.
    """
    if jax.process_count() == 1 or not scores:
        return scores
    names = sorted(scores)
    said = of_all_processes(np.asarray([scores[name] for name in names], np.float64))[0]
    return dict(zip(names, said.tolist(), strict=True))


def together(write: Callable[[], None]) -> None:
    """A part of the work on a checkpoint that no process counts as done before all have done it.

    Else one that goes on to its end takes process 0 with it, which has more to write.
    """
    try:
        write()
    finally:
        roll_call.meet("checkpoint")


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
