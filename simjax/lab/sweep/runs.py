"""One run of a sweep: an ordinary training run, and what is kept of it."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from rich.console import Console

from simjax.errors import DivergedError, NotFiniteError, SimjaxError
from simjax.lab.measuring import Stopped
from simjax.lab.sweep.keys import Key
from simjax.sentence_encoder import SentenceEncoder
from simjax.train import loop, memory
from simjax.train import metrics as metrics_file
from simjax.train.config import RunConfig
from simjax.train.setup import Run, set_up
from simjax.train.state import TrainState
from simjax.train.step import Metrics, Step
from simjax.types import Batch

K = TypeVar("K", bound=Key)
WEIGHTS = ("checkpoints", "export")
"""What of a run's folder is removed once its record is kept."""
PARTS = 4
"""Of a run, whose mean noise and signal are kept apart."""
SHARED_SEED = 0
"""Of what runs share. Programs hold that of dropout; parameters and data differ by seed."""
SAMPLED = 16
"""Batches that say how many rows the blocks of a setting have."""


class SharedStep:
    """An update that is compiled once for each shape of its batches, and tells what it takes.

    Attributes:
        bytes: Of a device, by the compiler: the most of the programs so far; 0 where there is none.
    """

    def __init__(self, step: Step) -> None:
        self._step: Any = step
        self._programs: dict[tuple[int, ...], Any] = {}
        self.bytes = 0

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """The state after the update, and its metrics."""
        shape = batch.block.tokens.shape
        if shape not in self._programs:
            program = self._step.lower(state, batch).compile()
            self._programs[shape] = program
            self.bytes = max(self.bytes, memory.program_bytes(program))
        return self._programs[shape](state, batch)


@dataclass(frozen=True)
class _Shared:
    """What the runs of a setting share.

    Attributes:
        step: The update.
        rows: As of `common_rows`.
    """

    step: SharedStep
    rows: tuple[int, ...]


class Runner(Generic[K]):
    """Trains the runs of a study, which share compiled programs."""

    def __init__(self, configure: Callable[[K], RunConfig]) -> None:
        """Train nothing yet.

        Args:
            configure: The configuration of a run. Those of a setting differ in seeds and output,
                and encoders of all settings in nothing that encoding a text depends on.
        """
        self._configure = configure
        self._shared: dict[Hashable, _Shared] = {}
        self._encoders: list[SentenceEncoder] = []

    def __call__(self, key: K) -> dict[str, Any]:
        """Train and measure a run; one that was stopped goes on.

        Returns:
            `scores` of the last step, empty where the run `diverged`, as one does too whose metric
            is no finite number; `steps`; `loss`, the mean of the last tenth of them;
            `pairs_per_second`, their median; `memory`, bytes of a device by the compiler, None
            where nothing was left to train; `noise` and `signal` of the gradient, means over the
            steps that have both, and `noise_parts` and `signal_parts`, over each of `PARTS`; None
            and empty where they are not measured.

        Raises:
            Stopped: A signal came.
            SimjaxError: The run cannot be made.
        """
        config = self._configure(key)

        def prepare(config: RunConfig) -> Run:
            run = set_up(config)
            if key.setting not in self._shared:
                data = dataclasses.replace(config.data, seed=SHARED_SEED)
                first = set_up(dataclasses.replace(config, seed=SHARED_SEED, data=data))
                self._shared[key.setting] = _Shared(SharedStep(first.step), common_rows(first))
                self._encoders = self._encoders or [first.encoder]
            shared = self._shared[key.setting]
            run.source.ladder = shared.rows
            # An encoder is given the run's parameters wherever it is used.
            return dataclasses.replace(run, step=shared.step, encoder=self._encoders[0])

        scores: dict[str, float] = {}
        failure: SimjaxError | None = None
        try:
            done = loop.train(config, console=Console(stderr=True, quiet=True), prepare=prepare)
            if "stopped" in done:
                raise Stopped(done["stopped"])
            scores = {name: x for name, x in done["after"].items() if math.isfinite(x)}
        except (DivergedError, NotFiniteError) as error:
            failure = error
        found = figures(metrics_file.read(Path(config.output) / metrics_file.FILE))
        # The last update may ruin what was finite until then; what starts so was ruined before.
        if isinstance(failure, NotFiniteError) and not found["steps"]:
            raise failure
        diverged = failure is not None or config.evaluation.metric not in scores
        taken = self._shared[key.setting].step.bytes or None
        return {"scores": {} if diverged else scores, "diverged": diverged, "memory": taken} | found

    def forget(self, key: K) -> None:
        """Remove the weights of a run whose record is kept."""
        if jax.process_index() == 0:
            for name in WEIGHTS:
                folder = Path(self._configure(key).output) / name
                shutil.rmtree(folder, ignore_errors=True)


def common_rows(run: Run) -> tuple[int, ...]:
    """Numbers of rows that all runs of a setting choose from, so that they share programs.

    By itself a run fits its rows to its own order of the data, batch by batch, which compiles
    several programs. Here nearly every batch has the rows that the fullest of a sample needs.
    """
    sample = range(min(SAMPLED, run.total_steps))
    needed = max(run.source[n].batch.block.tokens.shape[1] for n in sample)
    return tuple(rows for rows in run.source.ladder if rows >= needed)


def figures(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What the metrics of a run say; see `Runner`."""
    steps = [line for line in lines if line.get("loss") is not None]
    losses = [line["loss"] for line in steps[-max(1, len(steps) // 10) :]]
    speeds = [line["pairs_per_second"] for line in steps]
    found: dict[str, Any] = {
        "steps": len(steps),
        "loss": float(np.mean(losses)) if losses else None,
        "pairs_per_second": float(np.median(speeds)) if speeds else None,
    }
    names = ("noise", "signal")
    pairs = [[line.get(f"gradient_{name}") for name in names] for line in steps]
    # A ratio of means is of the same steps above and below the line.
    both = [pair for pair in pairs if None not in pair]
    parts = np.array_split(np.asarray(both), min(PARTS, len(both))) if both else []
    for place, name in enumerate(names):
        found[name] = float(np.mean([pair[place] for pair in both])) if both else None
        found[f"{name}_parts"] = [float(part[:, place].mean()) for part in parts]
    return found
