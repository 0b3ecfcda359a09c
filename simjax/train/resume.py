"""Going on with a run: what has changed since its last start, and its newest whole checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from simjax.checkpoint.identity import changed_keys, tell
from simjax.checkpoint.manager import Checkpoints
from simjax.checkpoint.mirror import Mirror
from simjax.errors import SimjaxError
from simjax.train import metrics, weights_and_biases
from simjax.train.config import RunConfig
from simjax.train.setup import LEARNED, Run
from simjax.train.state import TrainState

CONFIG = "config.yaml"
"""Where a run folder has the configuration of its last start."""


def changed(folder: Path, config: RunConfig) -> dict[str, str]:
    """The keys whose values the last start of the run in ``folder`` had otherwise.

    Args:
        folder: The run folder.
        config: The configuration of this start.

    Returns:
        For each dotted key but `output` what it was and what it is, in words.
    """
    path = folder / CONFIG
    if not path.is_file():
        return {}
    try:
        before: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        old = {key: value for key, value in before.items() if key != "output"}
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return {CONFIG: f"{CONFIG} (cannot be read, so that changed keys cannot be told)"}
    new = {key: value for key, value in dataclasses.asdict(config).items() if key != "output"}
    return {key: tell([key], old, new) for key in changed_keys(old, new)}


def open_mirror(folder: Path, config: RunConfig, say: Callable[[str], object]) -> Mirror:
    """The mirror of a run's checkpoints, which does nothing where none is asked for."""
    asked = config.checkpoint
    return Mirror(
        asked.mirror,
        folder,
        keep=asked.keep,
        beside=lambda step: beside(folder, step),
        taken=(CONFIG, weights_and_biases.ID, LEARNED, metrics.FILE),
        say=say,
    )


def beside(folder: Path, step: int) -> dict[str, bytes]:
    """What going on from a step reads in the run folder beside its checkpoint.

    Args:
        folder: The run folder.
        step: Later figures are left out, as they are when the run goes on.

    Returns:
        Contents by name.
    """
    learned = (folder / LEARNED).glob("*")
    files = [folder / CONFIG, folder / weights_and_biases.ID, *learned]
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in files if p.is_file()}
    return found | {metrics.FILE: metrics.until(folder / metrics.FILE, step).encode()}


def restore(
    run: Run, checkpoints: Checkpoints, warn: Callable[[str], object]
) -> tuple[TrainState, int]:
    """The state of the newest whole checkpoint and its step; else the first state and 0.

    Args:
        run: The run.
        checkpoints: Its checkpoints.
        warn: Called with a line for each checkpoint that is left out, and why.

    Raises:
        SimjaxError: There are checkpoints and none is whole, or they are of another state.
    """
    checkpoints.check(warn)
    step = checkpoints.latest()
    if step is None:
        return run.init_state(), 0
    state, data = checkpoints.restore(step, run.abstract_state())
    if data != {"next_index": step}:
        raise SimjaxError(
            f"{checkpoints.folder / str(step)}: its data stand at {data}, not at step {step}"
        )
    return state, step
