"""What the compiler says of a step."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import jax

from simjax.errors import SimjaxError
from simjax.plan.collectives import Collective, collectives
from simjax.plan.program import Program
from simjax.train.memory import ProgramBytes

_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Compiled(ProgramBytes):
    """A compiled step.

    Attributes:
        needed: Bytes that were asked for, where that was too much; there is then no program, and
            the others are 0.
        collectives: What is sent.
        seconds: That tracing and compiling took.
    """

    needed: int | None
    collectives: tuple[Collective, ...]
    seconds: float

    @property
    def total(self) -> int:
        """Bytes of a device."""
        return super().total if self.needed is None else self.needed

    def sent(self) -> dict[str, float]:
        """Bytes that each device sends, by kind of collective."""
        total: dict[str, float] = {}
        for found in self.collectives:
            total[found.kind] = total.get(found.kind, 0) + found.sent
        return total


def compile_step(program: Program) -> Compiled:
    """Compiles a step for the devices of its mesh.

    Raises:
        SimjaxError: The compiler fails, for another reason than that memory is too small.
    """
    began = time.perf_counter()
    try:
        step = program.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = _needed(str(error))
        if needed is None:
            reason = str(error).strip().splitlines()[0][:300]
            raise SimjaxError(
                f"the compiler fails on this step ({reason}); --no_compile plans by formulas alone"
            ) from error
        return Compiled(0, 0, 0, needed, (), time.perf_counter() - began)
    found = ProgramBytes.of(step)
    return Compiled(
        found.arguments,
        found.temporary,
        found.code,
        needed=None,
        collectives=tuple(collectives(step, program.mesh.size)),
        seconds=time.perf_counter() - began,
    )


def _needed(message: str) -> int | None:
    """Bytes that the compiler would have liked; None where memory is not what is amiss."""
    found = _USED.search(message)
    if found is None:
        return None
    number, unit = found.groups()
    return int(float(number) * _UNITS[unit])
