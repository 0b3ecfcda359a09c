"""The figures of a run: `metrics.jsonl`, one JSON object per line, and TensorBoard events."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from simjax.errors import SimjaxError
from simjax.train.weights_and_biases import WandbRun

FILE = "metrics.jsonl"
EVENTS = "tensorboard"


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
        self._path = Path(folder) / FILE
        if not (jax.process_index() == 0 if enabled is None else enabled):
            return
        folder, path = Path(folder), self._path
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _keep_until(path, resume_step)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise SimjaxError(f"{path}: cannot be written ({error})") from error
        if tensorboard:
            from tensorboardX import SummaryWriter

            # TensorBoard hides earlier events from the purge step on. The suffix keeps a run that
            # is resumed within the same second from writing over their file.
            self._events = SummaryWriter(
                str(folder / EVENTS),
                purge_step=0 if resume_step is None else resume_step + 1,
                filename_suffix=f".{time.time_ns()}",
            )

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Records ``values`` (numbers, or arrays of one number) under ``step``.

        JSON has no NaN and no infinity: they become null there. TensorBoard, which warns of them,
        is not given them, nor is Weights & Biases.

        Raises:
            SimjaxError: the disk is full, or the file cannot be written any more.
        """
        if self._file is None:
            return
        numbers = {name: _number(value) for name, value in values.items()}
        line = {"step": int(step)} | {
            name: value if math.isfinite(value) else None for name, value in numbers.items()
        }
        try:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise SimjaxError(f"{self._path}: cannot be written ({error.strerror})") from error
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        if self._events is not None:
            for name, value in finite.items():
                self._events.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.write(int(step), finite)

    def close(self, *, failed: bool = False) -> None:
        """Ends the files; a second call does nothing."""
        if self._file is not None:
            # What a full disk would not take was complained of before.
            with suppress(OSError):
                self._file.close()
            self._file = None
        if self._events is not None:
            self._events.close()
            self._events = None
        if self._wandb is not None:
            self._wandb.close(failed=failed)
            self._wandb = None

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(failed=error is not None)


def read(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl` that can be read, in order."""
    return [line for _, line in _lines(Path(path))]


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
    kept = ""
    if step is not None and path.exists():
        kept = "".join(text + "\n" for text, line in _lines(path) if line["step"] <= step)
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
