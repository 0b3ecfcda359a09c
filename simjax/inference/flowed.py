"""An encoder with a flow behind it, fitted on sentences; a stopped fit is gone on with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from simjax.checkpoint.manager import CheckpointConfig, Checkpoints
from simjax.errors import SimjaxError
from simjax.inference.bulk import encode_to_file
from simjax.inference.formats import load_array
from simjax.inference.partial import Texts
from simjax.inference.progress import progress
from simjax.inference.whitened import check_open
from simjax.postprocess.flow_fit import FitConfig, FlowFit, State, check_count
from simjax.processes import lock

if TYPE_CHECKING:
    from simjax.sentence_encoder import SentenceEncoder

_METRIC = "log_likelihood"


@dataclass(frozen=True)
class Fitted:
    """What came of a fit.

    Attributes:
        encoder: With the flow of the best epoch behind the model.
        sentences: How many there were, those that were held out included.
        epoch: The best epoch.
        before: Mean log-likelihood of a sentence that was held out, in nats, at the start, where
            the flow is a normal distribution with a mean and a variance for each dimension.
        after: The same under the best epoch's flow.
    """

    encoder: SentenceEncoder
    sentences: int
    epoch: int
    before: float
    after: float


def flowed(
    encoder: SentenceEncoder,
    read: Callable[[], Iterable[str]],
    work: Path,
    *,
    fit: FitConfig | None = None,
    batch_size: int | None = None,
    say: Callable[[str], object] = lambda line: None,
    stop: Callable[[], bool] = lambda: False,
    show_progress_bar: bool = False,
) -> Fitted | None:
    """Embed sentences once, and fit a flow to what the encoder gives before it is scaled.

    Embeddings and checkpoints lie in `work`. A call that was stopped or killed there is gone on
    with by the same call, to the same bits on the same device: embeddings from the last that were
    safe on the disk, the fit from its last checkpoint, which is that of the last epoch or that of
    the stop.

    Args:
        encoder: The model.
        read: Gives the sentences, the same at every call; those of white space are left out.
        work: A folder for this alone. The caller removes it.
        fit: What flow is fitted, and how; the defaults without it.
        batch_size: See `SentenceEncoder.encode`.
        say: Told of progress, in lines.
        stop: Asked again and again; True saves and ends.
        show_progress_bar: Show one while sentences are embedded.

    Returns:
        The encoder with its flow, and figures; None if it was stopped.

    Raises:
        UsageError: As of `check_open`.
        SimjaxError: The sentences are too few or too much alike, the fit has diverged, `work`
            belongs to another fit or to one that is going on, or cannot be written.
    """
    fit = fit or FitConfig()
    check_open(encoder)

    def sentences() -> Iterable[str]:
        return (text for text in read() if text.strip())

    digest, count = Texts(), 0
    for text in sentences():
        digest.add(text)
        count += 1
    check_count(count, encoder.model.embedding_size, fit)
    embedded = {
        "model": encoder.fingerprint(),
        "dtype": encoder.dtype,
        "max_length": encoder.max_length,
        "prompt": encoder.request(batch_size).before,
        "sentences": digest.hexdigest(),
    }
    identity = embedded | {"fit": dataclasses.asdict(fit)}
    with ExitStack() as stack:
        stack.enter_context(_locked(work))
        checkpoints = stack.enter_context(
            Checkpoints(work / "checkpoints", CheckpointConfig(), best_metric=_METRIC)
        )
        checkpoints.check(say)
        checkpoints.identify(identity)
        # Named by what they are of, so that others are never taken for them.
        name = hashlib.sha256(json.dumps(embedded, sort_keys=True).encode()).hexdigest()[:16]
        path = work / f"embeddings-{name}.npy"
        if not path.exists():
            with progress(count, shown=show_progress_bar) as advance:

                def advance_or_stop(rows: int) -> None:
                    advance(rows)
                    if stop():
                        raise _Stopped

                try:
                    encode_to_file(
                        encoder,
                        sentences(),
                        path,
                        batch_size=batch_size,
                        normalize=False,
                        resumed=advance,
                        advance=advance_or_stop,
                    )
                except _Stopped:
                    return None
        task = _Task(FlowFit(_embeddings(path, count), fit), checkpoints, say)
        state, step = task.state()
        while step < task.fit.steps:
            if stop():
                checkpoints.save(step, state, task.data)
                checkpoints.wait()
                return None
            state = task.fit.step(state, step)
            step += 1
            if step % task.fit.steps_per_epoch == 0:
                task.save(step, state)
        best = checkpoints.best() or 0
        found = checkpoints.restore(best, task.fit.abstract_state())[0]
        after = checkpoints.metrics(best)[_METRIC]
    flow = task.fit.flow(found["flow"])
    return Fitted(encoder.rebuilt(encoder.model, flow), count, task.epoch(best), task.before, after)


class _Stopped(Exception):
    """The wish to stop, out of what embeds."""


class _Task:
    """A fit with its checkpoints.

    Attributes:
        before: Held-out log-likelihood at the start.
    """

    def __init__(
        self, fit: FlowFit, checkpoints: Checkpoints, say: Callable[[str], object]
    ) -> None:
        self.fit, self._checkpoints, self._say = fit, checkpoints, say
        self.before = math.nan

    @property
    def data(self) -> dict[str, float]:
        """What a checkpoint remembers beside the state."""
        return {"before": self.before}

    def epoch(self, step: int) -> int:
        """Epochs that are over at a step."""
        return step // self.fit.steps_per_epoch

    def state(self) -> tuple[State, int]:
        """Where the fit stands, and how many steps that is."""
        step = self._checkpoints.latest()
        if step is None:
            state = self.fit.start()
            shape = self.fit.shape
            self._say(f"a flow over the {shape.rank} of {shape.width} dimensions that are in use")
            self.save(0, state)
            return state, 0
        state, data = self._checkpoints.restore(step, self.fit.abstract_state())
        self.before = data["before"]
        self._say(f"going on from step {step:,} of {self.fit.steps:,}")
        return state, step

    def save(self, step: int, state: State) -> None:
        """At the end of an epoch, with its likelihood, which is told.

        Raises:
            SimjaxError: It is not finite.
        """
        found = self.fit.log_likelihood(state["flow"])
        if not math.isfinite(found):
            work = self._checkpoints.folder.parent
            raise SimjaxError(
                f"the flow has diverged after step {step:,} (its log-likelihood is {found}); "
                f"remove {work} and give a lower learning rate"
            )
        self.before = found if step == 0 else self.before
        self._checkpoints.save(step, state, self.data, {_METRIC: found})
        epochs = self.epoch(self.fit.steps)
        self._say(
            f"epoch {self.epoch(step)} of {epochs}: held-out log-likelihood of a sentence "
            f"{found:.2f}"
        )


def _embeddings(path: Path, count: int) -> np.ndarray:
    try:
        rows = load_array(path)
    except (OSError, ValueError) as error:
        raise SimjaxError(f"{path}: cannot be read ({error}); remove it") from error
    if len(rows) != count:
        raise SimjaxError(f"{path}: has {len(rows):,} rows for {count:,} sentences; remove it")
    return rows


def _locked(work: Path) -> IO[str]:
    """The folder, made if need be, as long as the file stays open."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        file = (work / "lock").open("w")
    except OSError as error:
        raise SimjaxError(f"{work}: cannot be written ({error.strerror})") from error
    if not lock.acquired(file.fileno()):
        file.close()
        raise SimjaxError(f"{work}: another process is fitting here")
    return file
