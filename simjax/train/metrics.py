"""The figures of a run: `metrics.jsonl`, one JSON object per line, and TensorBoard events."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from simjax.errors import SimjaxError
from simjax.train.weights_and_biases import WandbRun

FILE = "metrics.jsonl"
EVENTS = "tensorboard"
FLUSH_SECONDS = 30
"""TensorBoard's file is brought to the disk this often; `metrics.jsonl` with every line."""


class MetricsWriter:
    """Appends figures to a run folder; does nothing on processes other than the first.

    Every line is on its way to the disk when `write` returns, so a killed run loses none. On
    resuming, the lines of the steps that will be done again are dropped.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        resume_step: int | None = None,
        tensorboard: bool = True,
        wandb: WandbRun | None = None,
        enabled: bool | None = None,
    ) -> None:
        """Opens the files in ``folder``, which is made when missing.

        Args:
            folder: the run folder.
            resume_step: the step that the run goes on from; later lines, and lines that cannot be
                read (the last one, torn by a kill), are dropped. None starts empty files.
            tensorboard: whether to write TensorBoard events as well, in `tensorboard/`.
            wandb: run at Weights & Biases that is given them too, and is ended with the files.
            enabled: whether to write at all; None writes on process 0 alone.

        Raises:
            SimjaxError: the folder or the file cannot be written.
        """
        self._file: Any = None
        self._events: Any = None
        self._wandb = wandb
        if not (jax.process_index() == 0 if enabled is None else enabled):
            return
        folder = Path(folder)
        self._path = path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _keep_until(path, resume_step)
            self._file = path.open("a", encoding="utf-8")
            if tensorboard:
                first = 0 if resume_step is None else resume_step + 1
                self._events = _Events(folder / EVENTS, first)
        except OSError as error:
            raise SimjaxError(f"{path}: cannot be written ({error})") from error

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Records ``values`` (numbers, or arrays of one number) under ``step``.

        JSON has no NaN and no infinity: they become null there. TensorBoard, which warns of them,
        is not given them, nor is Weights & Biases.

        Raises:
            SimjaxError: the files cannot be written, as on a disk that is full.
        """
        if self._file is None:
            return
        numbers = {name: _number(value) for name, value in values.items()}
        line = {"step": int(step)} | {
            name: value if math.isfinite(value) else None for name, value in numbers.items()
        }
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        try:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
            if self._events is not None:
                self._events.add(step, finite)
        except OSError as error:
            raise self._failure(error) from error
        if self._wandb is not None:
            self._wandb.write(int(step), finite)

    def close(self, *, failed: bool = False) -> None:
        """Ends the files and what else was given the figures; a second call does nothing.

        Args:
            failed: whether an error ended the run.

        Raises:
            SimjaxError: what they still held cannot be written.
        """
        wandb, self._wandb = self._wandb, None
        if wandb is not None:
            wandb.close(failed=failed)
        files, self._file, self._events = (self._events, self._file), None, None
        lost: OSError | None = None
        for file in files:
            try:
                if file is not None:
                    file.close()
            except OSError as error:
                lost = error
        if lost is not None:
            raise self._failure(lost) from lost

    def _failure(self, error: OSError) -> SimjaxError:
        return SimjaxError(f"{self._path}: cannot be written ({error.strerror}); make room there")

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close(failed=error is not None)
        except SimjaxError:
            if error is None:  # else what ended the run matters more
                raise


class _Events:
    """Scalars for TensorBoard.

    tensorboardX's own writer hands them to a thread: where the disk is full, that thread dies, and
    `add_scalar` waits for it for ever.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        folder.mkdir(exist_ok=True)
        # The suffix keeps a run that is resumed within the same second from writing over its file.
        self._writer = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        # TensorBoard hides earlier events from this step on.
        self._add(first_step, session_log=SessionLog(status=SessionLog.START))
        self._writer.flush()
        self._flushed = time.monotonic()

    def add(self, step: int, values: Mapping[str, int | float]) -> None:
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._add(step, summary=scalar(name, value))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        self._writer.close()

    def _add(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(wall_time=time.time(), step=int(step), **content))


def read(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl` that can be read, in order."""
    return [line for _, line in _lines(Path(path))]


def until(path: Path, step: int) -> str:
    """The lines of a `metrics.jsonl` that can be read and are not later than ``step``."""
    if not path.exists():
        return ""
    return "".join(text + "\n" for text, line in _lines(path) if line["step"] <= step)


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            found.append((text, line))
    return found


def _keep_until(path: Path, step: int | None) -> None:
    """Rewrites the file, at one stroke, without what is later than ``step``."""
    kept = "" if step is None else until(path, step)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(kept)
        file.flush()
        # A machine that loses its power now must find the old file or the new one.
        os.fsync(file.fileno())
    os.replace(partial, path)


def _number(value: Any) -> int | float:
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, int) else float(value)
