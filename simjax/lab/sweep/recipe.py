"""The recipe that the runs of a sweep start from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simjax.errors import SimjaxError, UsageError
from simjax.train import config as run_config
from simjax.train.config import RunConfig


def find(name: str) -> Path:
    """A recipe of simjax's own, in the package as installed or beside it in a checkout.

    Raises:
        SimjaxError: The installation lacks it.
    """
    package = Path(__file__).resolve().parents[2]
    for folder in (package, package.parent):
        path = folder / "configs" / name
        if path.is_file():
            return path
    raise SimjaxError(f"{package}: this installation lacks configs/{name}; reinstall it")


def load(path: Path, overrides: Sequence[str], varied: Mapping[str, str]) -> RunConfig:
    """Read a recipe.

    Args:
        path: The recipe.
        overrides: Each `--dotted.key=VALUE`.
        varied: Keys that are the study's to set, and the options that say them.

    Raises:
        UsageError: The recipe is wrong or has no metric, or an override is of something that the
            study sets.
    """
    for override in overrides:
        key = override.partition("=")[0].removeprefix("--")
        if key in varied:
            raise UsageError(f"--{key}: the study sets this; use {varied[key]}")
    recipe = run_config.load(path, list(overrides))
    if recipe.evaluation.metric is None:
        raise UsageError(
            f"{path}: evaluation.metric is null: name the score that tells how good a run is"
        )
    return recipe


def one_run(recipe: RunConfig, output: Path, seed: int) -> RunConfig:
    """The recipe as a run of a study, with a folder and a seed of its own.

    The last step is what is scored: nothing is chosen on the set that judges.
    """
    return dataclasses.replace(
        recipe,
        output=str(output),
        seed=seed,
        data=dataclasses.replace(recipe.data, seed=seed),
        train=dataclasses.replace(
            recipe.train, log_every=1, patience=None, profile=None, wandb=None
        ),
        evaluation=dataclasses.replace(recipe.evaluation, every=0),
        checkpoint=dataclasses.replace(recipe.checkpoint, mirror=None),  # it holds one run
    )


def told(recipe: RunConfig) -> dict[str, Any]:
    """What of a recipe decides the results of its runs, without folders of this machine."""
    values = dataclasses.asdict(recipe)
    for name in ("output", "seed", "checkpoint"):
        del values[name]
    # What they read is known by the token store's fingerprint and the evaluation's digest.
    for name in ("root", "cache", "prefetch"):
        del values["data"][name]
    del values["tokenizer"]
    return values
