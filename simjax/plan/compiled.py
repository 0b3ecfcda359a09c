"""What the compiler says of a step."""

from __future__ import annotations

import time
from dataclasses import dataclass

import jax

from simjax.errors import SimjaxError
from simjax.plan.collectives import Collective, collectives
from simjax.plan.program import Program
from simjax.train.memory import ProgramBytes, needed_bytes


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
        SimjaxError: The compiler fails, for another reason than that memory is too small, or what
            its program sends cannot be read off.
    """
    began = time.perf_counter()
    try:
        step = program.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = needed_bytes(str(error))
        if needed is None:
            raise SimjaxError(
                f"the compiler fails on this step ({_first_line(error)}); --no_compile plans by "
                "formulas alone"
            ) from error
        return Compiled(0, 0, 0, needed, (), time.perf_counter() - began)
    try:
        sent = tuple(collectives(step, program.mesh.size))
    except ValueError as error:
        raise SimjaxError(
            f"what the compiled step sends cannot be told ({_first_line(error)}); --no_compile "
            "plans by formulas alone"
        ) from error
    found = ProgramBytes.of(step)
    return Compiled(
        found.arguments,
        found.temporary,
        found.code,
        needed=None,
        collectives=sent,
        seconds=time.perf_counter() - began,
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
