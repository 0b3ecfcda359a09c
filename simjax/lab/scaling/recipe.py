"""The configuration of each run: the study's recipe with what the study varies put in."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from simjax import mesh as meshes
from simjax.errors import UsageError
from simjax.lab.scaling.grid import Grid, RunKey, run_keys
from simjax.lab.sweep import recipe as recipes
from simjax.objectives.config import ContrastiveConfig
from simjax.train import config as run_config
from simjax.train.config import RunConfig

RECIPE = "scaling_small.yaml"
LR_SCALING: dict[str, Any] = {"constant": "none", "sqrt": "sqrt", "linear": "linear"}
VARIED = {
    "output": "--output",
    "seed": "--seeds",
    "data.seed": "--seeds",
    "data.batch_size": "--batch_sizes",
    "objective.loss": "--objectives",
    "objective.negative_group": "--negative_groups",
    "optimizer.lr_scaling": "--lr_rules",
    "optimizer.reference_batch_size": "--base_batch",
    "train.epochs": "--examples",
    "train.steps": "--examples",
    "train.micro_batch": "--micro_batch",
}
"""Keys of the recipe that are the study's to set, and the options that say them."""


@dataclass(frozen=True)
class Plan:
    """What all runs of a study have in common.

    Attributes:
        recipe: The configuration that runs start from.
        examples: Seen by every run.
        base_batch: The batch at which the recipe's learning rate holds under every rule.
        micro_batch: Examples that a device encodes at a time, in every run, so that memory and
            speed are comparable.
        block_size: Of every run.
        folder: Of the study.
    """

    recipe: RunConfig
    examples: int
    base_batch: int
    micro_batch: int
    block_size: int
    folder: Path

    @cached_property
    def parts(self) -> int:
        """Devices that a batch is split over."""
        return batch_parts(self.recipe)

    def config(self, key: RunKey) -> RunConfig:
        """The configuration of a run.

        Raises:
            UsageError: The recipe does not go with what the study sets.
        """
        recipe = self.recipe
        objective: dict[str, Any] = {
            "loss": key.objective,
            "negative_group": None if key.group == key.batch else key.group,
        }
        run = recipes.one_run(recipe, self.folder / "runs" / key.folder, key.seed)
        return dataclasses.replace(
            run,
            data=dataclasses.replace(run.data, batch_size=key.batch, block_size=self.block_size),
            objective=dataclasses.replace(run.objective, **objective),
            optimizer=dataclasses.replace(
                run.optimizer,
                lr_scaling=LR_SCALING[key.lr_rule],
                reference_batch_size=self.base_batch,
            ),
            train=dataclasses.replace(
                run.train,
                steps=self.examples // key.batch,
                micro_batch=self.micro_batch,
                noise_scale=self._noise(key.batch),
            ),
        )

    def _noise(self, batch: int) -> bool:
        """Whether the noise of the gradient can be measured."""
        recipe = self.recipe
        objective = recipe.objective
        assert isinstance(objective, ContrastiveConfig)  # checked when the recipe was read
        beside = objective.mlm is not None or objective.seq2seq is not None
        if beside or recipe.mesh.gather == "layer" or objective.learnable_temperature:
            return False
        return batch > self.micro_batch or self.parts > 1

    def told(self) -> dict[str, Any]:
        """What decides the result of a run beside its key, without folders of this machine."""
        shared = ("examples", "base_batch", "micro_batch", "block_size")
        own = {name: getattr(self, name) for name in shared}
        return {"recipe": recipes.told(self.recipe), "parts": self.parts} | own


def read(path: Path, overrides: list[str]) -> RunConfig:
    """The recipe of a study.

    Args:
        path: The recipe.
        overrides: Each `--dotted.key=VALUE`.

    Raises:
        UsageError: The recipe is wrong, or an override is of something that the study sets.
    """
    recipe = recipes.load(path, overrides, VARIED)
    if not isinstance(recipe.objective, ContrastiveConfig):
        raise UsageError(
            f"{path}: objective.name is {recipe.objective.name}: the study compares the losses of "
            "contrastive"
        )
    return recipe


def batch_parts(recipe: RunConfig) -> int:
    """Devices that a batch is split over, of those that are here.

    Raises:
        UsageError: They cannot be laid out as the recipe says.
    """
    return meshes.batch_parts(meshes.make_mesh(recipe.mesh))


def plan(
    recipe: RunConfig,
    grid: Grid,
    folder: Path,
    *,
    examples: int,
    base_batch: int | None,
    micro_batch: int | None,
) -> Plan:
    """See that every run of the grid can be made of a recipe, on the devices that are here.

    Args:
        recipe: As `read` gives it.
        grid: The runs.
        folder: Of the study.
        examples: Seen by every run.
        base_batch: As of `Plan`; None is the batch that the recipe's learning rate was given for.
        micro_batch: As of `Plan`; None is the recipe's, or half of the smallest batch, and no more
            than a device has of that.

    Raises:
        UsageError: A run of the grid does not go with the recipe or the devices.
    """
    if base_batch is None:
        scaled = recipe.optimizer.lr_scaling != "none"
        base_batch = recipe.optimizer.reference_batch_size if scaled else recipe.data.batch_size
    parts, smallest = batch_parts(recipe), min(grid.batch_sizes)
    for batch in grid.batch_sizes:
        if batch % parts:
            raise UsageError(
                f"--batch_sizes {batch}: cannot be shared out among {parts} devices (mesh.data x "
                f"mesh.fsdp); give multiples of {parts}, or --mesh.data 1"
            )
    usual = recipe.train.micro_batch or max(1, smallest // 2)
    micro = micro_batch or (usual if parts == 1 else min(usual, smallest // parts))
    found = Plan(recipe, examples, base_batch, micro, _block(recipe, micro, parts), folder)
    for key in run_keys(grid, base_batch):
        _check_share(key, micro, parts)
        run_config.validate(found.config(key))
    return found


def _block(recipe: RunConfig, micro: int, parts: int) -> int:
    """Examples of a block: the recipe's, or fewer where devices have less than that of a batch."""
    wanted = recipe.data.block_size
    if wanted is not None and (parts == 1 or micro % wanted == 0):
        return wanted
    return max(n for n in range(1, (wanted or 64) + 1) if micro % n == 0)


def _check_share(key: RunKey, micro: int, parts: int) -> None:
    """Refuses a run whose batch a device cannot take in such micro-batches and groups.

    Raises:
        UsageError: With the option at fault.
    """
    share = key.batch // parts
    if share % micro:
        what = "" if parts == 1 else f"a share of {share} for each of {parts} devices "
        raise UsageError(
            f"--batch_sizes {key.batch}: {what}is no multiple of the micro-batch of {micro}; give "
            "another --micro_batch"
        )
    if key.group != key.batch and share % key.group:
        raise UsageError(
            f"--negative_groups {key.group}: does not divide the {share} examples that each of "
            f"{parts} devices has of --batch_sizes {key.batch}; give a divisor, or --mesh.data 1"
        )
