"""What a run leaves behind: the model of its best step as a folder that others load."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from simjax import export
from simjax.checkpoint.manager import Checkpoints
from simjax.checkpoint.mirror import Mirror
from simjax.errors import SimjaxError
from simjax.model_card import left_out
from simjax.models.sentence_model import SentenceModel, split
from simjax.remote import is_url, without_secrets
from simjax.sentence_encoder import SentenceEncoder
from simjax.train import average, lora
from simjax.train import config as run_config
from simjax.train.config import RunConfig, evaluated_parameters
from simjax.train.early_stopping import EarlyStopping
from simjax.train.heads import make_heads
from simjax.train.published import systems
from simjax.train.setup import load_run_tokenizer, make_encoder
from simjax.train.start import make_model
from simjax.train.weights_and_biases import WandbRun
from simjax.types import Params

EVALUATION = "eval/"
"""Prefix of evaluation scores in the metrics of a run."""


def open_checkpoints(
    folder: Path, config: RunConfig, *, read_only: bool = False, mirror: Mirror | None = None
) -> Checkpoints:
    """The checkpoints in a run folder, the best by `evaluation.metric` among those that stay."""
    from simjax.eval import tasks

    metric = config.evaluation.metric
    return Checkpoints(
        folder / "checkpoints",
        config.checkpoint,
        best_metric=None if metric is None else EVALUATION + metric,
        best_mode="max" if metric is None or tasks.higher_is_better(metric) else "min",
        read_only=read_only,
        mirror=mirror,
    )


def open_wandb(folder: Path, config: RunConfig) -> WandbRun | None:
    """The run at Weights & Biases where one is asked for, on process 0."""
    if config.train.wandb is None or jax.process_index() != 0:
        return None
    return WandbRun(config.train.wandb, folder, _without_paths(dataclasses.asdict(config)))


def early_stopping(config: RunConfig) -> EarlyStopping:
    """What ends a run before its time, at its start."""
    from simjax.eval import tasks

    metric = config.evaluation.metric
    better = metric is None or tasks.higher_is_better(metric)
    return EarlyStopping(config.train.patience, config.train.min_change, better)


def export_model(
    config: RunConfig,
    encoder: SentenceEncoder,
    folder: Path,
    *,
    step: int,
    scores: Mapping[str, float],
    overwrite: bool,
) -> Path:
    """Writes an encoder of a run, with a card that says how it came about.

    Raises:
        SimjaxError: The folder holds something else, or cannot be written.
    """
    recipe = dataclasses.asdict(config)
    for key in ("output", "checkpoint"):
        del recipe[key]
    if config.model.pretrained is not None:
        del recipe["model"]["encoder"]  # the shape is that folder's
    card = export.ModelCard(
        name=Path(config.output).name,
        base_model=config.model.pretrained,
        systems=tuple(map(str, systems(config))),
        recipe={"step": step, **_without_paths(recipe)},
        scores=scores,
    )
    return encoder.save_pretrained(folder, card=card, overwrite=overwrite)


def _without_paths(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe that tells nobody where things lie on this machine.

    Paths below the data root are part of the recipe; of others, the last name is told.
    """
    data = {key: value for key, value in recipe["data"].items() if key not in ("root", "cache")}
    return _last_names(recipe | {"data": data})


def _last_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _last_names(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_last_names(item) for item in value]
    if isinstance(value, str) and (value.startswith(("/", "~", "./", "../")) or is_url(value)):
        return Path(without_secrets(value)).name
    return value


def export_run(
    run: Path,
    folder: Path,
    *,
    step: int | None = None,
    overwrite: bool = False,
    warn: Callable[[str], object] = print,
) -> int:
    """Writes the model of a run's checkpoint, whether the run has ended or not.

    Args:
        run: A run folder.
        folder: Where to.
        step: Which checkpoint; None takes the best by `evaluation.metric`, else the newest, of
            those that are whole.
        overwrite: Replace a model that was exported there before.
        warn: Called with a line for each checkpoint that is left out because it is not whole, and
            for what other libraries leave out of the model.

    Returns:
        The step.

    Raises:
        SimjaxError: No run, no such checkpoint, or one that is damaged; or the folder is in use.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise SimjaxError(f"{run}: is no run folder (it has no config.yaml)")
    config = dataclasses.replace(run_config.load(path), output=str(run))
    with open_checkpoints(run, config, read_only=True) as checkpoints:
        if step is None:
            checkpoints.check(warn)
        chosen = step or checkpoints.best() or checkpoints.latest()
        if chosen is None:
            raise SimjaxError(f"{run}: has no checkpoint yet; train it first")
        tokenizer = load_run_tokenizer(config)
        start = make_model(config, tokenizer)
        heads = make_heads(config, start.model.config)
        encoder = make_encoder(config, start, tokenizer, heads)
        parts = restore_parts(checkpoints, chosen, encoder, config)
        scores = {
            name.removeprefix(EVALUATION): value
            for name, value in checkpoints.metrics(chosen).items()
            if name.startswith(EVALUATION)
        }
    encoder = encoder.replace(parts["model"], parts)
    export_model(config, encoder, folder, step=chosen, scores=scores, overwrite=overwrite)
    for said in left_out(encoder.flow, encoder.decoder):
        warn(f"{folder}: {said}")
    return chosen


def restore_parts(
    checkpoints: Checkpoints, step: int, encoder: SentenceEncoder, config: RunConfig
) -> dict[str, Params]:
    """What a checkpoint's encoder is used with: its model's parameters, and its decoder's.

    Raises:
        SimjaxError: As of `restore_model`.
    """
    found = {"model": restore_model(checkpoints, step, encoder.model, config)}
    if (decoder := encoder.decoder) is not None:
        for name, shapes in jax.eval_shape(lambda: decoder.params).items():
            found[name] = restore_part(checkpoints, step, name, shapes, config)
    return found


def restore_part(
    checkpoints: Checkpoints, step: int, name: str, shapes: Params, config: RunConfig
) -> Params:
    """The parameters that a part beside a checkpoint's model is used with.

    Raises:
        SimjaxError: The checkpoint is missing, damaged or of other shapes.
    """
    which = evaluated_parameters(config)
    restored, _ = checkpoints.restore(step, average.wanted(shapes, which, name), partial=True)
    return average.evaluated(restored, which, name)


def restore_model(
    checkpoints: Checkpoints, step: int, model: SentenceModel, config: RunConfig
) -> Params:
    """The parameters that a checkpoint's model is used with, on this process's first device.

    Raises:
        SimjaxError: The checkpoint is missing, damaged or of another model.
    """
    which, adapters = evaluated_parameters(config), config.model.lora
    _, params = split(model)
    shapes = jax.eval_shape(lambda p: lora.with_adapters(p, adapters, config.seed), params)
    restored, _ = checkpoints.restore(step, average.wanted(shapes, which), partial=True)
    return lora.merged(average.evaluated(restored, which), adapters)
