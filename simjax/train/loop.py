"""A run from start to end: resume, train, evaluate, save, export."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import numpy as np
from jax import P
from jax.sharding import Mesh, NamedSharding
from rich.console import Console

from simjax import mesh as meshes
from simjax.checkpoint import agreement
from simjax.checkpoint.manager import Checkpoints
from simjax.checkpoint.manifest import write_text
from simjax.data import pipeline
from simjax.data.pipeline import PackedBatch
from simjax.errors import DivergedError
from simjax.eval import report, tasks
from simjax.eval.predictions import Predictors
from simjax.inference.likelihood import Likelihood
from simjax.model_card import left_out
from simjax.processes import drafts, roll_call
from simjax.train import config as run_config
from simjax.train import finish, lora, resume, summary, throughput
from simjax.train import metrics as metrics_file
from simjax.train.average import Evaluated, evaluated
from simjax.train.config import RunConfig
from simjax.train.early_stopping import EarlyStopping
from simjax.train.folder import check_shared, locked, open_folder
from simjax.train.metrics import MetricsWriter
from simjax.train.profiler import Profiler
from simjax.train.progress import Progress
from simjax.train.setup import Run, set_up
from simjax.train.signals import StopRequest
from simjax.train.state import TrainState
from simjax.train.stop_agreement import StopAgreement
from simjax.types import Params


def train(
    config: RunConfig,
    *,
    console: Console | None = None,
    prepare: Callable[[RunConfig], Run] = set_up,
) -> dict[str, Any]:
    """Trains by a configuration; goes on where the output folder left off.

    Args:
        config: What is trained, and how.
        console: Where progress is shown; by default standard error.
        prepare: Makes the parts of the run, for callers whose runs share some.

    Returns:
        `steps`, `best_step`, and the scores `before` the first step and `after` training, the
        latter of the exported model; or `stopped`, the signal that ended the run early.

    Raises:
        SimjaxError: Something that the run needs is missing or faulty, the output folder holds
            another run, the processes of the run differ, the last checkpoint cannot be copied to
            the mirror, or (`DivergedError`) the loss is no longer finite.
        UsageError: The configuration contradicts itself, the data or the devices.
    """
    console = console or Console(stderr=True)
    run_config.validate(config)
    roll_call.agree("code and recipe", roll_call.versions() | dataclasses.asdict(config))
    roll_call.agree("devices", roll_call.devices())
    folder = open_folder(config.output)
    # The folder is this run's, and a signal no sudden end, until the export is there.
    with locked(folder), ExitStack() as until_exported:
        check_shared(folder)
        with ExitStack() as stack:
            mirror = stack.enter_context(resume.open_mirror(folder, config, _lines(console)))
            mirror.fetch()
            if jax.process_index() == 0:
                drafts.recover(folder / "export", alone=True)
            evaluation = tasks.load(config.evaluation, config.data.root_path)
            roll_call.agree("evaluation", {"evaluation": tasks.sizes(evaluation)})
            run = prepare(config)
            checkpoints = stack.enter_context(
                finish.open_checkpoints(folder, config, mirror=mirror)
            )
            changed = resume.changed(folder, config)
            mirror.identify(run.identity, changed)
            checkpoints.identify(run.identity, changed)
            if jax.process_index() == 0:
                write_text(folder / resume.CONFIG, run_config.dump(config))
            state, start = resume.restore(run, checkpoints, _lines(console))
            watch = finish.early_stopping(config)
            if start:
                watch = watch.restored(checkpoints.metrics(start))
            wandb = finish.open_wandb(folder, config)
            writer = stack.enter_context(
                MetricsWriter(folder, resume_step=start or None, wandb=wandb)
            )
            profiler = stack.enter_context(
                Profiler(folder / metrics_file.EVENTS, config.train.profile)
            )
            progress = stack.enter_context(
                Progress(
                    run.total_steps,
                    start_step=start,
                    log_every=config.train.log_every,
                    console=console,
                    enabled=jax.process_index() == 0,
                )
            )
            stop = until_exported.enter_context(StopRequest())
            loop = _Loop(run, evaluation, checkpoints, writer, progress, stop, watch, profiler)
            progress.print(run.summary())
            if start:
                best = checkpoints.best()  # which every process reads before any step goes
                if not loop.unscored(start):
                    mirror.offer(start, best)  # if it is not there
                progress.print(f"going on from step {start} of {run.total_steps}")
                if changed:
                    progress.print(f"changed since the last start: {', '.join(changed.values())}")
            else:
                loop.evaluate(state, 0)
            state, step = loop.run(state, start)
            checkpoints.wait()
            if loop.stopped and (step < run.total_steps or loop.unscored(step)):
                progress.print(
                    f"{loop.stopped}: saved at step {step} of {run.total_steps}; "
                    "the same command goes on from there"
                )
                mirror.finish()
                roll_call.meet("stopped")  # or a late signal to one would end what another writes
                return {"steps": step, "stopped": loop.stopped}
            if step < run.total_steps:
                progress.print(
                    f"step {step} of {run.total_steps}: stopping early, {config.evaluation.metric} "
                    f"has been no better for {loop.watch.stale} evaluations"
                )
            best, parts = _best(run, checkpoints, state)
            after = loop.scores(parts) if best != step else loop.last_scores
        lines = metrics_file.read(folder / metrics_file.FILE)
        before = {
            name.removeprefix(finish.EVALUATION): value
            for line in lines
            if line["step"] == 0
            for name, value in line.items()
            if name.startswith(finish.EVALUATION)
        }
        scores = {"steps": step, "best_step": best, "before": before, "after": after}
        if jax.process_index() == 0:
            finish.export_model(
                config,
                run.encoder_of(parts),
                folder / "export",
                step=best,
                scores=after,
                overwrite=True,
            )
            columns = {"before": before, f"step {best}": after} if after else {}
            if columns:
                baseline = tasks.baseline(evaluation)
                columns |= {"TF-IDF": baseline} if baseline else {}
                console.print(report.table(columns, title=config.output))
            summary.write(folder, lines, scores=columns, exported=best, total_steps=run.total_steps)
            exported = f"the model of step {best} is in {folder / 'export'}"
            console.print(f"step {step} of {run.total_steps}: done; {exported}", soft_wrap=True)
            for said in left_out(run.encoder.flow, run.encoder.decoder):
                console.print(f"{folder / 'export'}: {said}", soft_wrap=True)
        mirror.finish()
        roll_call.meet("exported")
        return scores


def _lines(console: Console) -> Callable[[str], None]:
    """Shows lines as they are, however long."""
    return lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)


def _best(run: Run, checkpoints: Checkpoints, state: TrainState) -> tuple[int, dict[str, Params]]:
    """The step to export and its parameters, on this process's first device."""
    last = int(state.step)
    best = checkpoints.best() or last
    if best == last:
        return last, local_params(run, state)
    parts = finish.restore_parts(checkpoints, best, run.encoder, run.config)
    if run.finds_classes:
        shapes = jax.eval_shape(lambda: run.params["objective"])
        part = finish.restore_part(checkpoints, best, "objective", shapes, run.config)
        parts["objective"] = part
    return best, parts


def local_params(run: Run, state: TrainState) -> dict[str, Params]:
    """What is evaluated, whole on this process's first device: the model, and what predicts."""
    which = run_config.evaluated_parameters(run.config)
    heads = () if run.encoder.decoder is None else tuple(run.encoder.decoder.params)
    heads += ("objective",) if run.finds_classes else ()
    whole = _evaluated(run.mesh, which, run.config.model.lora, heads)(state)
    return jax.tree.map(lambda x: x.addressable_data(0), whole)


@cache
def _evaluated(
    mesh: Mesh, which: Evaluated, adapters: lora.LoraConfig | None, heads: tuple[str, ...]
) -> Callable[[TrainState], dict[str, Params]]:
    def parts(state: TrainState) -> dict[str, Params]:
        model = lora.merged(evaluated(state, which), adapters)
        return {"model": model} | {name: evaluated(state, which, name) for name in heads}

    return jax.jit(parts, out_shardings=NamedSharding(mesh, P()))


@dataclass
class _Pending:
    """A step whose metrics are still on the device."""

    step: int
    metrics: dict[str, jax.Array]
    packed: PackedBatch


class _Loop:
    """The steps of a run, with what is done between them."""

    def __init__(
        self,
        run: Run,
        evaluation: tasks.Tasks,
        checkpoints: Checkpoints,
        writer: MetricsWriter,
        progress: Progress,
        stop: StopRequest,
        watch: EarlyStopping,
        profiler: Profiler,
    ) -> None:
        self.run_ = run
        self.evaluation = evaluation
        self.checkpoints = checkpoints
        self.writer = writer
        self.progress = progress
        self.agreement = StopAgreement(run.mesh, stop)
        self.watch = watch
        self.profiler = profiler
        self.stopped: str | None = None
        """Name of the signal that ended the steps early."""
        self.last_scores: dict[str, float] = {}
        self._peak = throughput.peak(list(run.mesh.devices.flat), run.config.model.dtype)
        self._window = throughput.Window()
        self._compiled: set[tuple[int, ...]] = set()
        self._compile_seconds = run.compile_seconds

    def run(self, state: TrainState, start: int) -> tuple[TrainState, int]:
        """Trains to the end or to a stop; returns the state and the updates made."""
        run, step = self.run_, start
        ended = start == run.total_steps or self.watch.reached
        if start and self.unscored(start):
            self._score(state, start)
        elif ended:
            self.last_scores = self.evaluate(state, step, record=False)
        if ended or self.watch.reached:
            return state, step
        batches = pipeline.batches(
            run.source, start=start, stop=run.total_steps, prefetch=run.config.data.prefetch
        )
        pending: _Pending | None = None
        self._window.start()
        for packed in self._timed(batches):
            step += 1
            state, metrics = self._update(state, packed, step)
            # The step that was just dispatched computes while the one before is reported.
            if pending is not None:
                self._report(pending)
            pending = _Pending(step, metrics, packed)
            stopping = self.agreement.reached()
            if stopping or self._saves(step) or self._evaluates(step):
                self._report(pending)
                pending = None
                # One that is asked to stop leaves this to its next start: it may have seconds.
                evaluates = self._evaluates(step) and bool(self.evaluation.loaded) and not stopping
                figures = self.watch.figures()
                self.checkpoints.save(
                    step, state, {"next_index": step}, figures, unscored=evaluates
                )
                if evaluates:
                    self._score(state, step)
                self._window.start()
                if stopping or self.watch.reached:
                    self.stopped = stopping
                    break
        return state, step

    def scores(self, parts: dict[str, Params]) -> dict[str, float]:
        """Evaluation scores of whole parameters, as `local_params` gives them."""
        if not self.evaluation.loaded:
            return {}
        encoder = self.run_.encoder_of(parts)
        likelihood = None if encoder.decoder is None else Likelihood(encoder)
        predictors = Predictors(likelihood, self.run_.pair_classifier(encoder, parts))
        found = tasks.run(self.evaluation, encoder.encode, predictors, encoder.for_retrieval)
        return agreement.scores_from_leader(found)

    def evaluate(self, state: TrainState, step: int, *, record: bool = True) -> dict[str, float]:
        """Evaluates the state and records the scores."""
        self.last_scores = self.scores(local_params(self.run_, state))
        if record and self.last_scores:
            self.writer.write(step, {finish.EVALUATION + k: v for k, v in self.last_scores.items()})
            metric = self.run_.config.evaluation.metric
            if metric is not None:
                self.progress.print(f"step {step}: {metric} {self.last_scores[metric]:.2f}")
        return self.last_scores

    def _timed(self, batches: Any) -> Iterator[PackedBatch]:
        while True:
            began = time.perf_counter()
            try:
                packed = next(batches)
            except StopIteration:
                return
            self._window.waited += time.perf_counter() - began
            yield packed

    def _update(self, state: TrainState, packed: PackedBatch, step: int) -> tuple[TrainState, dict]:
        sharding = meshes.batch_sharding(self.run_.mesh)
        batch = jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(sharding, x), packed.batch
        )
        shape = packed.batch.block.tokens.shape
        # A new number of rows is a new program; its compilation is not the step's time.
        if compiles := shape not in self._compiled:
            self._compiled.add(shape)
            self.progress.compiling(len(self._compiled))
        began = time.perf_counter()
        state, metrics = self.profiler.call(step, self.run_.step, state, batch)
        if compiles:
            seconds = time.perf_counter() - began
            self._window.compiled += seconds
            self._compile_seconds += seconds
        return state, metrics

    def _report(self, pending: _Pending) -> None:
        """Fetches the metrics of a step, checks them and shows them.

        Raises:
            DivergedError: Loss or gradient are not finite.
        """
        values = {name: float(value) for name, value in jax.device_get(pending.metrics).items()}
        step, run, config = pending.step, self.run_, self.run_.config
        for name in ("loss", "grad_norm"):
            if not np.isfinite(values[name]):
                raise DivergedError(self._not_finite(step, name, values[name]))
        packed = pending.packed
        self._window.add(packed.examples, packed.tokens, packed.fill)
        operations = throughput.operations(
            config, run.model, self._window, run.source.num_views, run.encodings
        )
        figures = self._window.figures(operations, self._peak)
        self.progress.update(
            step,
            loss=values["loss"],
            pairs_per_second=figures["pairs_per_second"],
            tokens_per_second=figures["tokens_per_second"],
            fill=figures["fill"],
        )
        if step % config.train.log_every == 0 or step == self.run_.total_steps:
            memory = throughput.memory(self.run_.mesh.local_devices)
            figures |= {"memory_peak": memory.peak, "compile_seconds": self._compile_seconds}
            self.writer.write(step, values | figures)
            self._window.start()
            self._compile_seconds = 0.0

    def _not_finite(self, step: int, name: str, value: float) -> str:
        self.checkpoints.wait()
        # The state after the step before is the one that gave this figure: not a good one.
        good = [saved for saved in self.checkpoints.steps() if saved < step - 1]
        where = self.checkpoints.folder
        kept = f"step {good[-1]} is kept in {where}" if good else "none was saved before"
        what = "loss" if name == "loss" else "gradient norm"
        return (
            f"step {step}: the {what} is {value}; the last good checkpoint: {kept}; lower "
            "optimizer.learning_rate, or raise objective.temperature or optimizer.warmup, and "
            "choose another output"
        )

    def _saves(self, step: int) -> bool:
        every = self.run_.config.checkpoint.every
        return step == self.run_.total_steps or (every > 0 and step % every == 0)

    def _evaluates(self, step: int) -> bool:
        every = self.run_.config.evaluation.every
        return step == self.run_.total_steps or (every > 0 and step % every == 0)

    def unscored(self, step: int) -> bool:
        """Whether a step that is saved has yet to be evaluated."""
        if not self._evaluates(step) or not self.evaluation.loaded:
            return False
        names = self.checkpoints.metrics(step)
        return not any(name.startswith(finish.EVALUATION) for name in names)

    def _score(self, state: TrainState, step: int) -> None:
        """Evaluates a step that is saved."""
        scores = self.evaluate(state, step)
        metric = self.run_.config.evaluation.metric
        if metric in scores:
            self.watch = self.watch.after(scores[metric])
        metrics = {finish.EVALUATION + name: value for name, value in scores.items()}
        self.checkpoints.score(step, metrics | self.watch.figures())
