"""A profiler trace of chosen steps, where TensorBoard and XProf look for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax

Result = TypeVar("Result")


class Profiler:
    """Traces the steps from the first to the last of two numbers; a context manager."""

    def __init__(self, folder: Path, steps: tuple[int, ...] | None) -> None:
        """Prepares the trace of process 0.

        Args:
            folder: where it goes: `plugins/profile/` below it.
            steps: the first and the last step to be traced, counted from 1; None traces none.
        """
        self._folder = folder
        self._steps = steps if jax.process_index() == 0 else None
        self._running = False

    def call(self, step: int, function: Callable[..., Result], *arguments: Any) -> Result:
        """Calls the update of ``step``, traced if that is wanted.

        Of a trace that begins or ends, other steps are no part: it waits for what the devices do.
        """
        if self._steps is None or not self._steps[0] <= step <= self._steps[1]:
            return function(*arguments)
        if not self._running:
            jax.block_until_ready(arguments)
            jax.profiler.start_trace(self._folder)
            self._running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            result = function(*arguments)
        if step == self._steps[1]:
            jax.block_until_ready(result)
            self._stop()
        return result

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()

    def __enter__(self) -> Profiler:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()
