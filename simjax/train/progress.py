"""What a run shows while it trains: a bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar


class Progress:
    """Loss, pairs/s, tokens/s, fill and time left of a run; a context manager.

    On a terminal one bar, redrawn in place. What is printed while it stands (`print`, `sys.stdout`,
    `sys.stderr`, warnings, log records) appears above it. Elsewhere one plain line every
    ``log_every`` steps.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        start_step: int = 0,
        log_every: int = 10,
        console: Console | None = None,
        enabled: bool = True,
    ) -> None:
        """Prepares the display.

        Args:
            total_steps: updates of the whole run.
            start_step: updates made before, when the run is resumed.
            log_every: steps between two plain lines.
            console: where to write; default standard error.
            enabled: False shows nothing at all (processes other than the first).
        """
        self._total = total_steps
        self._start = start_step
        self._log_every = max(1, log_every)
        self._console = console or Console(stderr=True)
        self._enabled = enabled
        self._began = time.monotonic()
        self._last_line = start_step
        self._handlers: list[tuple[logging.StreamHandler[Any], Any]] = []
        self._bar: Bar | None = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        self._began = time.monotonic()
        if self._enabled and self._console.is_terminal:
            self._bar = Bar(
                TextColumn("training"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                console=self._console,
                expand=True,
                redirect_stdout=True,
                redirect_stderr=True,
            )
            self._task = self._bar.add_task(
                "training", total=self._total, completed=self._start, figures=""
            )
            self._bar.start()
            self._redirect_handlers()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            for handler, stream in self._handlers:
                handler.setStream(stream)
            self._handlers.clear()
            self._bar.stop()
            self._bar = None

    def compiling(self, programs: int) -> None:
        """Says why the next step takes its time.

        Args:
            programs: How many are compiled with it. Lines tell of the first alone: the others are
                for other numbers of rows, and soon over.
        """
        if self._bar is not None:
            self._bar.update(self._task, figures="compiling")
        elif self._enabled and programs == 1:
            self._plain("compiling the step")

    def update(
        self,
        step: int,
        *,
        loss: float,
        pairs_per_second: float,
        tokens_per_second: float,
        fill: float,
    ) -> None:
        """Shows the figures of ``step``.

        Args:
            step: updates made so far.
            loss: loss of the step.
            pairs_per_second: examples per second, over all devices.
            tokens_per_second: real tokens per second, over all devices.
            fill: real tokens over tokens computed, from 0 to 1.
        """
        if not self._enabled:
            return
        figures = (
            f"loss {loss:.4f}  {_short(pairs_per_second)} pairs/s  "
            f"{_short(tokens_per_second)} tokens/s  fill {fill:.0%}  {self._left(step)}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, figures=figures)
        elif not self._console.is_terminal and (
            step >= self._total or step // self._log_every > self._last_line // self._log_every
        ):
            self._last_line = step
            self._plain(f"step {step}/{self._total}  {figures}")

    def print(self, what: RenderableType) -> None:
        """Shows a line or a table, above the bar where there is one."""
        if self._enabled:
            self._console.print(what, markup=False, soft_wrap=isinstance(what, str))

    def _plain(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _left(self, step: int) -> str:
        done = step - self._start
        if done <= 0:
            return "- left"
        seconds = (time.monotonic() - self._began) / done * max(0, self._total - step)
        return f"{_clock(seconds)} left"

    def _redirect_handlers(self) -> None:
        # Log handlers hold on to the stream they were made with, which the bar did not replace.
        for logger in (logging.getLogger(), logging.getLogger("absl")):
            for handler in logger.handlers:
                for standard in (sys.__stderr__, sys.__stdout__):
                    if (
                        isinstance(handler, logging.StreamHandler)
                        and handler.stream is standard
                        and standard is not None
                    ):
                        self._handlers.append((handler, standard))
                        handler.setStream(sys.stderr if standard is sys.__stderr__ else sys.stdout)
                        break


def _short(number: float) -> str:
    for limit, divisor, unit in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if number >= limit:
            return f"{number / divisor:.1f}{unit}"
    return f"{number:.0f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
