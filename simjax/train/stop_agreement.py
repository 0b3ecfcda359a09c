"""The step at which all processes stop, whichever of them was asked to."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import P
from jax.sharding import Mesh, NamedSharding

from simjax import mesh as meshes
from simjax.train.signals import StopRequest


class StopAgreement:
    """The signal that any process was given to stop, known to all of them at the same step.

    A signal reaches processes between different steps, or only one of them, and a process that
    leaves alone leaves the others waiting. The answer is read one step late, as metrics are, so
    that asking never stalls the step.
    """

    def __init__(self, mesh: Mesh, stop: StopRequest) -> None:
        self._mesh = mesh
        self._stop = stop
        self._asked: jax.Array | None = None

    def reached(self) -> str | None:
        """The signal to stop for, or None. All processes call this once after every step."""
        if jax.process_count() == 1:
            return self._stop.name if self._stop.requested else None
        parts = len(self._mesh.local_devices) * meshes.batch_parts(self._mesh) // self._mesh.size
        # Of several signals the one with the highest number is told, by all processes alike.
        number = signal.Signals[self._stop.name] if self._stop.name else 0
        mine = np.full(parts, number, np.int32)
        sharding = meshes.batch_sharding(self._mesh)
        before = self._asked
        self._asked = _largest(self._mesh)(jax.make_array_from_process_local_data(sharding, mine))
        return signal.Signals(int(before)).name if before is not None and int(before) else None


@cache
def _largest(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))
