"""The checkpoints of one run: written in the background by Orbax, found, checked and restored.

A folder holds one sub-folder per step, named by its number, and `run.json`, the identity of the
run. Orbax writes a step under a temporary name and renames it when it has all of it; the sums that
are written into it then mark it as complete. Scores may come later: a step is saved before it is
evaluated, which may take longer than the machine lasts. What saves that were cut off have left is
removed at the next start. `Checkpoints.check` leaves steps out that are not whole, and names them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import jax
from jaxtyping import PyTree
from orbax.checkpoint import v1

from simjax.checkpoint import complaints, leaves, manifest, step_folders
from simjax.checkpoint import identity as run_identity
from simjax.checkpoint.agreement import from_leader, together
from simjax.checkpoint.best import best_step
from simjax.checkpoint.config import CheckpointConfig
from simjax.errors import SimjaxError

if TYPE_CHECKING:
    from simjax.checkpoint.mirror import Mirror

__all__ = ["CheckpointConfig", "Checkpoints"]

State = TypeVar("State", bound=PyTree)

_STATE = "state"

# Orbax also logs, with a traceback, what it raises from a save and a SimjaxError then says.
logging.getLogger("absl").addFilter(lambda record: "_SignalingThread" not in str(record.msg))


class Checkpoints:
    """The checkpoints in one folder.

    All processes of a run make the same calls in the same order, on a file system that they
    share; process 0 alone writes sums and deletes. Which steps there are is read once, at the
    start, and followed from then on, so that every process always sees the same.
    """

    def __init__(
        self,
        folder: str | Path,
        config: CheckpointConfig | None = None,
        *,
        best_metric: str | None = None,
        best_mode: Literal["max", "min"] = "max",
        read_only: bool = False,
        mirror: Mirror | None = None,
    ) -> None:
        """Opens ``folder`` and removes what interrupted saves left in it.

        Args:
            folder: where the checkpoints are; made when missing.
            config: which of them stay.
            best_metric: name of the metric whose best checkpoint stays as well; None keeps no best.
            best_mode: whether its best value is the highest or the lowest.
            read_only: only look and restore, and touch nothing: another process may be training
                here.
            mirror: is offered every checkpoint that is complete.

        Raises:
            SimjaxError: the folder cannot be made, or is a file.
        """
        self.folder = Path(folder).absolute()
        self.config = config or CheckpointConfig()
        self.best_metric = best_metric
        self.best_mode = best_mode
        self.read_only = read_only
        self.mirror = mirror
        self._about: dict[int, dict[str, Any]] = {}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: tuple[int, dict[str, Any], list[int], Future[None]] | None = None
        self._doomed: list[int] = []
        """Steps that could not be deleted yet."""
        self._leads = jax.process_index() == 0
        if not read_only:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SimjaxError(f"{self.folder}: cannot be made a folder ({error})") from error
            if self._leads:
                step_folders.clean(self.folder)
        self._steps = step_folders.complete(self.folder)

    def check(self, warn: Callable[[str], object]) -> None:
        """Verifies all checkpoints; from here on, those that are not whole are as if not there.

        They stay on the disk until the run saves their step again.

        Args:
            warn: called with a line for each of them that names it and what is wrong with it.

        Raises:
            SimjaxError: there are checkpoints, and none of them is whole. One alone that lacks its
                sums is what the first save of a run leaves that is cut off.
        """
        self._settle()
        whole: list[int] = []
        first_fault, there = "", []
        if self._leads:
            there = step_folders.numbered(self.folder)
            for step in there:
                try:
                    manifest.verify(self._path(step))
                    whole.append(step)
                except manifest.Damaged as error:
                    if self._path(step).exists():  # else the run that trains here has dropped it
                        first_fault = first_fault or str(error)
                        warn(f"checkpoint of step {step} left out: {error}")
        complete, self._steps = self._steps, from_leader(whole)
        several = len(from_leader(there)) > 1
        if (complete or several) and not self._steps:
            raise SimjaxError(
                f"{self.folder}: none of its checkpoints is whole ({first_fault or 'see process 0'}"
                f"); put them back, or delete {self.folder} to start over"
            )

    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, ascending; a save that is under way is waited for."""
        self._settle()
        return list(self._steps)

    def latest(self) -> int | None:
        """The newest complete step, None where there is none."""
        steps = self.steps()
        return steps[-1] if steps else None

    def best(self) -> int | None:
        """The step with the best `best_metric`, the earliest of equals."""
        return best_step(self._scores(self.steps()), self.best_metric, self.best_mode)

    def metrics(self, step: int) -> dict[str, float]:
        """The metrics that ``step`` was saved with, or got since."""
        return dict(self._describe(step).get("metrics") or {})

    def save(
        self,
        step: int,
        state: PyTree,
        data_state: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
        *,
        unscored: bool = False,
    ) -> None:
        """Saves in the background; returns once the values are copied off the devices.

        The arrays may be donated or changed as soon as this returns. A save that is still under
        way is waited for first. Once the new step is complete, those that `CheckpointConfig` does
        not keep are deleted. A step that is saved already stays as it is: the same run has the
        same state there.

        Args:
            step: updates made so far, which names the checkpoint.
            state: pytree of jax arrays, typed keys included.
            data_state: state of the data, of what JSON can hold.
            metrics: figures of this step, for `best`.
            unscored: `score` follows: until then nothing is deleted, and no mirror told.

        Raises:
            SimjaxError: this save could not be started, or the one before failed; then this one is
                made nevertheless, and waited for.
            ValueError: the step was saved before with other metrics, or the folder is read-only.
        """
        if self.read_only:
            raise ValueError(f"{self.folder} was opened to read only")
        about = {
            "data": json.loads(json.dumps(dict(data_state))),
            "metrics": _floats(metrics or {}),
        }
        try:
            self._settle()
        except SimjaxError as error:
            if step in self._steps:
                raise
            # What was wrong may have passed, and this step has all that was learned since.
            self._begin(step, state, about, unscored=unscored)
            self._settle()
            raise SimjaxError(f"{error}; step {step} has been saved since") from error
        if step in self._steps:
            if metrics is not None and about["metrics"] != self.metrics(step):
                raise ValueError(f"step {step} was saved before, with other metrics")
            return
        self._begin(step, state, about, unscored=unscored)

    def _begin(self, step: int, state: PyTree, about: dict[str, Any], *, unscored: bool) -> None:
        named = leaves.name_leaves(state)
        about["leaves"] = leaves.describe(named)
        path = self._path(step)
        drop, best = self._superfluous(step, about)
        try:
            if self._leads and path.exists():  # never complete, or `check` has left it out
                step_folders.discard(path)
            response = v1.save_checkpointables_async(
                path, {_STATE: leaves.to_arrays(named)}, custom_metadata=about
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise complaints.unsaved(path, self._steps, error) from error

        def write() -> None:
            response.result()
            if self._leads:
                manifest.write(path)

        def work() -> None:
            together(write)
            if not unscored:
                self._follow(step, drop, best)

        self._saving = (step, about, [] if unscored else drop, self._worker.submit(work))

    def score(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds metrics to a step that was saved as unscored, in the background.

        They take the place of those of the same names. Then goes what `CheckpointConfig` does not
        keep.

        Args:
            step: one of `steps`.
            metrics: as of `save`.

        Raises:
            SimjaxError: the save of the step failed.
            ValueError: there is no such step, or the folder is read-only.
        """
        if self.read_only:
            raise ValueError(f"{self.folder} was opened to read only")
        self._settle()
        if step not in self._steps:
            raise ValueError(f"step {step} is not among those that are saved: {self._steps}")
        about = dict(self._describe(step))
        about["metrics"] = about["metrics"] | _floats(metrics)
        drop, best = self._superfluous(step, about)

        def write() -> None:
            if self._leads:
                step_folders.write_scores(self._path(step), about["metrics"])

        def work() -> None:
            together(write)
            self._follow(step, drop, best, changed=True)

        self._saving = (step, about, drop, self._worker.submit(work))

    def restore(
        self, step: int, abstract_state: State, *, partial: bool = False
    ) -> tuple[State, dict[str, Any]]:
        """Reads ``step`` after checking its sums.

        Args:
            step: one of `steps`.
            abstract_state: pytree of `jax.ShapeDtypeStruct` (or arrays) that says structure,
                shapes, types and, by its shardings, where everything goes; any mesh will do. A
                leaf without a sharding goes to this process's first device.
            partial: take only the leaves that ``abstract_state`` has (parameters without
                optimiser state, say).

        Returns:
            The state, bit for bit as it was saved, and the state of the data.

        Raises:
            SimjaxError: there is no such step, a file of it is missing or damaged, or a leaf is
                missing or has another shape or type.
        """
        self._settle()
        path = self._path(step)
        if step not in self._steps:
            have = ", ".join(map(str, self._steps)) or "none"
            raise SimjaxError(f"{self.folder}: has no checkpoint of step {step}; it has: {have}")
        named = leaves.name_leaves(abstract_state)
        fault = ""
        if self._leads:
            try:
                manifest.verify(path)
            except manifest.Damaged as error:
                fault = str(error)
        if from_leader([step] if fault else []):
            way_out = complaints.way_out(path, self._steps)
            raise SimjaxError(f"{fault or f'{path}: damaged (see process 0)'}; {way_out}")
        about = self._describe(step)
        leaves.check(about["leaves"], leaves.describe(named), str(path), partial=partial)
        targets = leaves.to_targets(named)
        context = v1.Context()
        context.pytree.loading.partial_load = partial
        try:
            with context:
                arrays = v1.load_checkpointables(path, {_STATE: targets})[_STATE]
        except Exception as error:  # Orbax and TensorStore have no common base for damaged data
            raise complaints.unreadable(path, self._steps, error) from error
        return leaves.from_arrays(arrays, abstract_state), dict(about["data"])

    def identify(
        self, identity: Mapping[str, Any], changed: Mapping[str, str] | None = None
    ) -> None:
        """Says which run this is, and holds it to the run whose checkpoints are here.

        Where there are none yet, ``identity`` (of what JSON can hold) is recorded.

        Args:
            identity: what may not change from one start of the run to the next.
            changed: keys outside of it that have changed, and how, for the message.

        Raises:
            SimjaxError: the checkpoints belong to another run; names the keys that differ.
        """
        if self._steps or self._saving is not None:
            run_identity.compare(self.folder, identity, changed or {})
        if self._leads and not self.read_only:
            run_identity.record(self.folder, identity)

    def wait(self) -> None:
        """Returns when no save is under way any more.

        Raises:
            SimjaxError: the save failed.
        """
        self._settle()

    def close(self) -> None:
        """Waits for the save under way and ends the worker.

        Raises:
            SimjaxError: that save failed.
        """
        try:
            self._settle()
        finally:
            self._worker.shutdown()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except SimjaxError as failed:
            if error is None:
                raise
            error.add_note(str(failed))  # what ended the run matters more

    def _path(self, step: int) -> Path:
        return self.folder / str(step)

    def _describe(self, step: int) -> dict[str, Any]:
        if step not in self._about:
            try:
                about = v1.checkpointables_metadata(self._path(step)).custom_metadata
                found = {key: about[key] for key in ("data", "metrics", "leaves")}
                later = step_folders.read_scores(self._path(step))
                self._about[step] = found if later is None else found | {"metrics": later}
            except Exception as error:  # as in restore
                raise complaints.unreadable(self._path(step), self._steps, error) from error
        return self._about[step]

    def _scores(self, steps: list[int]) -> dict[int, dict[str, float]]:
        """The metrics of steps, of none where there is no best."""
        return {} if self.best_metric is None else {step: self.metrics(step) for step in steps}

    def _superfluous(self, step: int, about: dict[str, Any]) -> tuple[list[int], int | None]:
        """What goes once ``step`` is complete and about to be this, and which is best then.

        Scores of older steps are read here, before it is complete: then process 0 deletes what the
        others might still be reading.
        """
        there = sorted({*self._steps, step})
        metrics = self._scores(self._steps) | {step: about["metrics"]}
        best = best_step(metrics, self.best_metric, self.best_mode)
        return [old for old in there[: -self.config.keep] if old != best], best

    def _follow(
        self, step: int, drop: list[int], best: int | None, *, changed: bool = False
    ) -> None:
        """What a step that is complete, and scored, brings about in the background."""
        if self._leads:
            if self.mirror is not None:
                drop = self.mirror.offer(step, best, drop, changed=changed)
            self._doomed += drop
            left = (old for old in self._doomed if not step_folders.discarded(self._path(old)))
            self._doomed = [*left]

    def _settle(self) -> None:
        """Waits for the end of a save that is under way, and takes note of it."""
        if self._saving is None:
            return
        step, about, drop, work = self._saving
        self._saving = None
        try:
            work.result()
        except Exception as error:  # whatever went wrong in the background
            self._steps = step_folders.complete(self.folder)
            raise complaints.unsaved(self._path(step), self._steps, error) from error
        self._about[step] = about
        self._steps = sorted({*self._steps, step} - set(drop))
        for gone in drop:
            self._about.pop(gone, None)


def _floats(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
