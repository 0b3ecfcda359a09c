"""The report: one page of HTML, made from the records alone, with its CSV and PNG files."""

from __future__ import annotations

from pathlib import Path

from simjax.errors import SimjaxError
from simjax.lab.page import Page, write_report
from simjax.lab.scaling import conclusions, noise, plots, tables
from simjax.lab.scaling.contrasts import contrasts
from simjax.lab.scaling.grid import Setting
from simjax.lab.scaling.study import Study
from simjax.lab.scaling.tables import Outcomes
from simjax.lab.sweep import contrasts as sweep
from simjax.lab.sweep.conclusions import trouble
from simjax.lab.sweep.contrasts import Effect, effects
from simjax.lab.sweep.outcomes import quality

AXES = {
    "batch": "More examples to an update, the same negatives",
    "negatives": "More negatives, the same update",
    "learning rate": "The rule of the learning rate",
    "objective": "The objective",
}


def write(folder: Path, study: Study) -> tuple[Path, list[str]]:
    """Write the page, its tables and its plots.

    Returns:
        The page's path, and its conclusions.

    Raises:
        SimjaxError: There are no records, they are malformed, or a file cannot be written.
    """
    records = list(study.records(folder))
    planned = study.planned()
    outcomes = Outcomes.of(
        records,
        planned,
        study.metric,
        micro_batch=study.told["micro_batch"],
        parts=study.told["parts"],
        base_batch=study.told["base_batch"],
    )
    if not outcomes.runs:
        raise SimjaxError(f"{folder}: no run is there yet: nothing to report on")
    found = effects(outcomes, contrasts(outcomes))
    drawn = [
        plot
        for plot in (
            plots.quality(outcomes),
            plots.geometry(outcomes),
            plots.noise(outcomes),
            plots.cost(outcomes),
        )
        if plot is not None
    ]
    page, lines = _page(study, outcomes, found)
    for plot in drawn:
        page.plot(plot)
    _how(page, study, outcomes)
    rows = {
        "runs": noise.run_rows(records),
        "quality": quality(outcomes, tables.heading),
        "effects": sweep.rows(found, outcomes),
        "noise": noise.rows(outcomes),
        "cost": tables.cost(outcomes),
    }
    return write_report(folder, page, drawn, rows), lines


def _page(study: Study, outcomes: Outcomes, found: list[Effect[Setting]]) -> tuple[Page, list[str]]:
    page = Page("Batch size: negatives, updates, noise and cost")
    lost = trouble(outcomes)
    for line in (*lost, *study.busy):
        page.warning(line)
    page.heading("In short")
    said = noise.conclusions(outcomes)
    lines = [conclusions.two_effects(found, outcomes), *conclusions.best(outcomes)]
    page.bullets([*lines, *said])
    page.heading("Quality")
    page.text(
        f"{outcomes.metric} of the last step, mean ± standard deviation over seeds. A contrast is "
        "paired by seed: what is said is its mean, a 95 % interval (Student's t), and whether it "
        "is outside of the spread of the seeds, by itself and after Holm's correction over all "
        "contrasts of this report."
    )
    for axis, title in AXES.items():
        of = [one for one in found if one.contrast.axis == axis]
        if of:
            page.heading(title, 3)
            page.bullets([sweep.sentence(one, outcomes) for one in of])
    page.table(quality(outcomes, tables.heading), "Scores of every setting.")
    page.table(sweep.rows(found, outcomes), f"Contrasts of {outcomes.metric}.")
    page.heading("Gradient noise")
    page.text(
        "The critical batch is the one at which the noise of the gradient is as large as its "
        "signal: B times the mean noise over the mean signal, both averaged over steps and seeds "
        "before they are divided (McCandlish et al. 2018). Well below it, twice the batch makes an "
        "update nearly twice as good; well above it, hardly better. Larger negatives are another "
        "loss, with another gradient and another critical batch.",
        noise.BIAS,
    )
    if said:
        page.table(noise.rows(outcomes), "Critical batch of every setting.")
    else:
        page.text(
            "It was not measured: it needs at least two micro-batches or devices, and goes with "
            "neither masked tokens nor a learned temperature nor parameters gathered by layer."
        )
    page.heading("Speed and memory")
    page.text(
        f"A device encodes at most {study.told['micro_batch']:,} examples at a time. "
        "Speeds are medians over the steps of a run, noise measured on the way, with a few more "
        "empty rows than a run by itself has, so that runs share compiled programs. Memory is the "
        "compiler's figure for a step on one device, with parameters and optimiser."
    )
    page.table(tables.cost(outcomes), "Speed and memory, over all runs of a batch and group.")
    page.heading("Plots")
    return page, [*lost, *study.busy, *lines, *said]


def _how(page: Page, study: Study, outcomes: Outcomes) -> None:
    told = study.told
    recipe = told["recipe"]
    seeds = sorted({key.seed for key in outcomes.planned})
    encoder = recipe["model"]["encoder"]
    start = f"random weights ({encoder['num_layers']} layers of width {encoder['hidden_size']})"
    if recipe["model"]["pretrained"] is not None:
        # The last name of a folder: where it lies says nothing to others.
        start = Path(recipe["model"]["pretrained"]).name
    page.heading("How it was made")
    page.commands(study.commands)
    page.text(
        f"{len(outcomes.planned)} runs of {study.recipe} from {start}, seeds "
        f"{', '.join(map(str, seeds))}: {told['examples']:,} examples each, so that a larger batch "
        "makes fewer updates. A seed decides the order of the examples, which is the same at every "
        "batch, and the random parameters; dropout follows the place in the batch and is the same "
        "for all seeds. Where the examples are more than a pass, what is left after the last "
        "whole batch of a pass is dropped.",
        f"The learning rate is {recipe['optimizer']['learning_rate']:g} at batch "
        f"{told['base_batch']:,}, where all rules are one; elsewhere constant keeps it, sqrt "
        "multiplies it by the square root of the batch over that batch, linear by their ratio. "
        f"Its warm-up and decay are the recipe's ({recipe['optimizer']['schedule']}), over the "
        "run's own updates.",
        "On " + ", ".join(f"{name} {value}" for name, value in study.machine.items()) + ".",
        "What this cannot say: a rule of the learning rate stands for a search over rates only as "
        "far as the rate at the base batch is a good one, and what is best after so many examples "
        "need not be best after many more. The best of many settings is named by the same runs and "
        "the same set that score it, so that its mean is too high by the choice.",
    )
