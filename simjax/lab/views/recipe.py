"""The configuration of each run: the study's recipe with what the study varies put in."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simjax.errors import UsageError
from simjax.lab.sweep import recipe as recipes
from simjax.lab.views.arms import ARMS, Grid, RunKey, changes_of, run_keys
from simjax.objectives.config import ContrastiveConfig
from simjax.train import config as run_config
from simjax.train.config import RunConfig

RECIPE = "simcse_wiki.yaml"
VARIED = {
    "output": "--output",
    "seed": "--seeds",
    "data.seed": "--seeds",
    "data.views": "--arms",
    "data.num_views": "--arms",
    "data.augment": "--arms or --synonyms",
    "data.dropout_masks": "--arms",
    "model.dropout": "--arms",
    "objective.temperature": "--arms",
    "objective.learnable_temperature": "--arms",
    "train.epochs": "--examples",
    "train.steps": "--examples",
}
"""Keys of the recipe that are the study's to set, and the options that say them."""


@dataclass(frozen=True)
class Plan:
    """What all runs of a study have in common.

    Attributes:
        recipe: The configuration that runs start from.
        examples: Seen by every run.
        points: How often a run is evaluated beside its start.
        synonyms: Table for the arm that needs one.
        folder: Of the study.
    """

    recipe: RunConfig
    examples: int
    points: int
    synonyms: Path | None
    folder: Path

    def config(self, key: RunKey) -> RunConfig:
        """The configuration of a run.

        Raises:
            UsageError: The recipe does not go with what the study sets.
        """
        arm = ARMS[key.arm]
        objective = self.recipe.objective
        assert isinstance(objective, ContrastiveConfig)  # checked when the recipe was read
        run = recipes.one_run(self.recipe, self.folder / "runs" / key.folder, key.seed)
        steps = max(1, self.examples // run.data.batch_size)
        synonyms = None if self.synonyms is None else str(self.synonyms)
        return dataclasses.replace(
            run,
            model=dataclasses.replace(run.model, dropout=arm.dropout),
            data=dataclasses.replace(
                run.data,
                views="dropout",
                num_views=2,
                augment=changes_of(key.arm, synonyms),
                dropout_masks=arm.masks,
            ),
            objective=dataclasses.replace(
                objective,
                temperature=arm.temperature,
                max_scale=max(objective.max_scale, 1 / arm.temperature),
            ),
            train=dataclasses.replace(run.train, steps=steps),
            evaluation=dataclasses.replace(run.evaluation, every=max(1, steps // self.points)),
        )

    def told(self) -> dict[str, Any]:
        """What decides the result of a run beside its key, without folders of this machine."""
        values = {
            "recipe": recipes.told(self.recipe),
            "examples": self.examples,
            "points": self.points,
        }
        if self.synonyms is not None:
            values["synonyms"] = hashlib.sha256(self.synonyms.read_bytes()).hexdigest()[:12]
        return values


def plan(
    path: Path,
    overrides: list[str],
    grid: Grid,
    folder: Path,
    *,
    examples: int,
    points: int,
    synonyms: Path | None,
) -> Plan:
    """Read the recipe and see that every run of the grid can be made of it.

    Args:
        path: The recipe.
        overrides: Each `--dotted.key=VALUE`.
        grid: The runs.
        folder: Of the study.
        examples: Seen by every run.
        points: As of `Plan`.
        synonyms: As of `Plan`.

    Raises:
        UsageError: The recipe is wrong, an override is of something that the study sets, or a
            run of the grid does not go with the recipe.
    """
    recipe = recipes.load(path, overrides, VARIED)
    if not isinstance(recipe.objective, ContrastiveConfig):
        raise UsageError(
            f"{path}: objective.name is {recipe.objective.name}: the study compares views under "
            "contrastive"
        )
    if synonyms is not None and not synonyms.is_file():
        raise UsageError(f"--synonyms {synonyms}: no such file")
    table = None if synonyms is None else synonyms.resolve()
    found = Plan(recipe, examples, points, table, folder)
    if examples < recipe.data.batch_size:
        raise UsageError(
            f"--examples {examples}: fewer than a batch, which has {recipe.data.batch_size}"
        )
    for key in run_keys(grid):
        run_config.validate(found.config(key))
    return found
