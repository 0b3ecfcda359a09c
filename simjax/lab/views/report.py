"""The report: one page of HTML, made from the records alone, with its CSV and PNG files."""

from __future__ import annotations

from pathlib import Path

from simjax.errors import SimjaxError
from simjax.lab.page import Page, write_report
from simjax.lab.sweep import contrasts as sweep
from simjax.lab.sweep.conclusions import best, trouble
from simjax.lab.sweep.contrasts import Effect, effects
from simjax.lab.sweep.outcomes import run_rows
from simjax.lab.views import plots, tables
from simjax.lab.views.arms import DROPOUT, TABLES, TEMPERATURE, Setting
from simjax.lab.views.study import Study
from simjax.lab.views.tables import Outcomes


def write(folder: Path, study: Study) -> tuple[Path, list[str]]:
    """Write the page, its tables and its plots.

    Returns:
        The page's path, and its conclusions.

    Raises:
        SimjaxError: There are no records, they are malformed, or a file cannot be written.
    """
    records = list(study.records(folder))
    outcomes = Outcomes.of(records, study.planned(), study.metric)
    if not outcomes.runs:
        raise SimjaxError(f"{folder}: no run is there yet: nothing to report on")
    found = effects(outcomes, tables.contrasts(outcomes))
    drawn = [p for p in (plots.quality(outcomes), plots.geometry(outcomes)) if p is not None]
    page, lines = _page(study, outcomes, found)
    for plot in drawn:
        page.plot(plot)
    _how(page, study, outcomes)
    rows = {str(table): tables.rows(table, outcomes, found) for table in TABLES}
    rows |= {
        "runs": run_rows(records),
        "effects": sweep.rows(found, outcomes),
        "trajectories": tables.path_rows(outcomes),
    }
    return write_report(folder, page, drawn, rows), lines


def _page(study: Study, outcomes: Outcomes, found: list[Effect[Setting]]) -> tuple[Page, list[str]]:
    page = Page("Views: augmentation, dropout, temperature")
    for line in (*trouble(outcomes), *study.busy):
        page.warning(line)
    page.heading("In short")
    lines = [
        f"{title}: {best(outcomes, settings)}."
        for table, title in TABLES.items()
        if len(settings := outcomes.of_table(table)) > 1
    ]
    page.bullets(lines)
    page.text(
        f"{outcomes.metric} of the last step, mean ± standard deviation over seeds. Each arm is "
        "compared with dropout alone, paired by seed: the mean difference, its 95 % interval "
        "(Student's t), and whether it is outside of the spread of the seeds, after Holm's "
        "correction over all comparisons of this report."
    )
    for table, title in TABLES.items():
        if len(outcomes.of_table(table)) > 1:
            page.heading(title)
            page.table(tables.rows(table, outcomes, found), f"{title}.")
            page.bullets(
                [sweep.sentence(one, outcomes) for one in found if one.contrast.axis == table]
            )
    page.heading("Plots")
    return page, lines


def _how(page: Page, study: Study, outcomes: Outcomes) -> None:
    told, seeds = study.told, sorted({key.seed for key in outcomes.planned})
    recipe = told["recipe"]
    encoder = recipe["model"]["encoder"]
    start = f"random weights ({encoder['num_layers']} layers of width {encoder['hidden_size']})"
    if recipe["model"]["pretrained"] is not None:
        # The last name of a folder: where it lies says nothing to others.
        start = Path(recipe["model"]["pretrained"]).name
    page.heading("How it was made")
    page.commands(study.commands)
    page.text(
        f"{len(outcomes.planned)} runs of {study.recipe} from {start}, seeds "
        f"{', '.join(map(str, seeds))}: {told['examples']:,} sentences each in batches of "
        f"{recipe['data']['batch_size']:,}. Where an arm says nothing else, dropout is {DROPOUT:g} "
        f"and the temperature {TEMPERATURE:g}; what it changes is changed of the second view, the "
        "first stays as it is. A seed decides the order of the sentences, what is changed of them, "
        "and random parameters; dropout masks and what is cut off are the same for all seeds.",
        "On " + ", ".join(f"{name} {value}" for name, value in study.machine.items()) + ".",
        "What this cannot say: SimCSE starts from BERT and sees a million sentences. From random "
        "weights an objective on single sentences has no similarity of meaning to build on, and "
        "arms may come in another order there. All arms have one learning rate. Temperatures of "
        "the last column are SimCSE's on STS-B dev.",
    )
