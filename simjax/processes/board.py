"""What the processes of a run tell each other, kept by process 0 for all to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# JAX has no public name for its key-value store. Orbax uses the same one.
from jax._src import distributed

_PREFIX = "simjax/"


@dataclass(frozen=True)
class Board:
    """A view of the key-value store.

    Its calls raise `jax.errors.JaxRuntimeError` when process 0 refuses the connection, and do not
    return while process 0 stands still.

    Attributes:
        client: JAX's connection to process 0.
        process: Number of this process.
        count: Processes in all.
    """

    client: Any
    process: int
    count: int

    def tell(self, subject: str, text: str) -> None:
        """Says something about a subject, in place of what this process said about it before."""
        self.client.key_value_set(f"{_PREFIX}{subject}/{self.process}", text, allow_overwrite=True)

    def heard(self, subject: str) -> dict[int, str]:
        """What each process has said about a subject, by its number."""
        said = self.client.key_value_dir_get(f"{_PREFIX}{subject}/")
        return {int(key.rpartition("/")[2]): text for key, text in said}

    def meet(self, place: str, *, seconds: float) -> None:
        """Waits until all processes have come here.

        Raises:
            jax.errors.JaxRuntimeError: One has not come in that time, or is gone.
        """
        self.client.wait_at_barrier(_PREFIX + place, round(1000 * seconds))


def of_this_run() -> Board | None:
    """The board of the processes that this one has joined; None where it is alone."""
    state = distributed.global_state
    if state.client is None or state.num_processes == 1:
        return None
    return Board(state.client, state.process_id, state.num_processes)
