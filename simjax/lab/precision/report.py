"""The report: one page of HTML, made from the measurements alone, with its CSV and PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simjax.errors import SimjaxError
from simjax.lab.precision import answers, outcomes, plots, tables
from simjax.lab.precision.comparisons import QUESTIONS, Comparison, best, compare, primary
from simjax.lab.precision.page import Page, write_csv
from simjax.lab.precision.plots import Plot
from simjax.lab.precision.records import Record
from simjax.lab.precision.study import ARITHMETIC, CHECKS, RUNS, Study

REPORT = "report.html"


class _Found:
    """The measurements of a study, and what follows from them."""

    def __init__(self, folder: Path, study: Study) -> None:
        self.arithmetic: list[Record] = list(study.records(folder, ARITHMETIC))
        self.runs: list[Record] = list(study.records(folder, RUNS))
        self.checks: list[Record] = list(study.records(folder, CHECKS))
        if not self.arithmetic and not self.runs:
            raise SimjaxError(f"{folder}: no measurement is there yet: nothing to report on")
        self.chosen = best(self.runs)
        self.metric = primary(self.runs)
        # Higher is better for both; geometry is described and not compared.
        names = {name for record in self.runs for name in record.values["scores"]}
        self.compared = [name for name in ("spearman", "ndcg@10") if name in names]
        self.comparisons: list[Comparison] = compare(self.chosen, self.compared)
        self.conclusions = [
            line
            for name in self.compared
            for line in outcomes.conclusions(self.chosen, self.comparisons, name)
        ]


def headlines(folder: Path, study: Study) -> list[str]:
    """The answers and conclusions of the report."""
    found = _Found(folder, study)
    lines = []
    if found.arithmetic:
        lines += [f"{question} {answer}" for question, answer in answers.summary(found.arithmetic)]
    if found.runs:
        lines += found.conclusions
    return lines


def write(folder: Path, study: Study) -> Path:
    """Write the page, its tables and its plots; returns the page's path.

    Raises:
        SimjaxError: There are no measurements, they are malformed, or a file cannot be written.
    """
    found = _Found(folder, study)
    page = Page("Float error in InfoNCE, DCL and FlatNCE")
    _setting(page, study, found)
    drawn: list[Plot] = []
    if found.arithmetic:
        drawn += _part_one(page, study, found)
    if found.runs:
        drawn += _part_two(page, study, found)
    try:
        for plot in drawn:
            (folder / f"{plot.name}.png").write_bytes(plot.png)
        path = folder / REPORT
        path.write_text(str(page), encoding="utf-8")
    except OSError as error:
        raise SimjaxError(f"{folder}: cannot be written to ({error.strerror})") from error
    exact = [{**record.key, **record.values["exact"]} for record in found.arithmetic]
    write_csv(folder / "arithmetic.csv", answers.table_rows(found.arithmetic))
    write_csv(folder / "exact.csv", exact)
    write_csv(folder / "runs.csv", tables.run_rows(found.runs))
    compared = [row for name in found.compared for row in _named(found, name)]
    write_csv(folder / "comparisons.csv", compared)
    return path


def _named(found: _Found, metric: str) -> list[dict[str, Any]]:
    return [{"metric": metric, **row} for row in tables.comparisons(found.comparisons, metric)]


def _setting(page: Page, study: Study, found: _Found) -> None:
    page.text(
        "With v = logsumexp over negatives of (score minus the positive's score), InfoNCE is "
        "softplus(v), DCL is v, and FlatNCE has DCL's gradient. Code in use writes InfoNCE as a "
        "cross-entropy, which is the same number and, in floating point, another gradient."
    )
    page.text("Made by:")
    page.commands(study.commands)
    page.text("On " + ", ".join(f"{name} {value}" for name, value in study.machine.items()) + ".")
    if found.arithmetic:
        page.heading("Part one in short")
        for question, answer in answers.summary(found.arithmetic):
            page.answer(question, answer)
    if found.runs:
        page.heading("Part two in short")
        page.bullets(found.conclusions)


def _part_one(page: Page, study: Study, found: _Found) -> list[Plot]:
    settings, records = study.arithmetic, found.arithmetic
    page.heading("Part one: arithmetic")
    anchors = settings["anchors"]
    page.text(
        f"Random unit vectors of width {settings['width']}; a positive is its anchor plus a random "
        "vector of length `noise`, on the sphere again (0.3: cosine 0.96, easy; 1: 0.71; 3: 0.32, "
        "hard). Measured is the gradient of the sum of the losses by the anchors, for "
        f"at most {anchors} anchors of a batch against all of its keys, which is all there is to "
        "it: an anchor's gradient does not depend on other anchors. The relative error is "
        "|g - g*| / |g*|, with g* the closed form in float64 on the same rounded inputs.",
        "`bfloat16 operands` and `float16 operands` round embeddings and keep scores in float32; "
        "`bfloat16` and `float16` compute everything in 16 bits. Dense forms return the gradient "
        "in the operands' type; the tiled operator returns float32, and has its scores in float32 "
        "always. There is no loss scaling: that float16 runs out of range is part of the result. "
        "Of a streamed kernel, cross-entropy is logsumexp over all keys minus the positive's score "
        "(in one sweep; `logsumexp - positive` makes the scores again in its backward pass).",
        _about_tf32(records),
    )
    page.heading("How much is cancellation?", 3)
    page.bullets(answers.cancellation(records))
    page.heading("How much is the vanishing factor?", 3)
    page.bullets(answers.vanishing(records))
    page.heading("What remains?", 3)
    page.text(
        "Where v is rounded, sigmoid(v) is off by the share that v moved: far below 0 softplus(v) "
        "keeps an error of about |v| units of roundoff. FlatNCE has no such factor."
    )
    page.bullets(answers.remaining(records))
    place = tables.reference_setting(records)
    drawn = [
        plots.errors_by_batch(records, *place),
        plots.errors_by_weight(records),
        plots.vanishing(records),
    ]
    for plot in drawn:
        page.plot(plot)
    page.table(tables.errors_over_all(records), "Relative error over all inputs.")
    page.table(
        tables.errors(records, *place),
        f"Median relative error (and cosine) at temperature {place[0]:g}, noise {place[1]:g}.",
    )
    page.table(tables.vanishing(records), "The factor sigmoid(v), in float64: medians over draws.")
    return drawn


def _about_tf32(records: list[Record]) -> str:
    if any("tf32" in record.values["errors"] for record in records):
        return "tf32 is how GPUs multiply float32 by default."
    return "tf32 is absent: it is a GPU's, and this ran without one."


def _part_two(page: Page, study: Study, found: _Found) -> list[Plot]:
    settings = study.training
    metric = found.metric
    page.heading("Part two: training")
    page.text(
        f"Texts: {study.corpus}; {study.texts['pairs']:,} pairs are trained on and "
        f"{study.texts['held out']:,} are held out. An encoder of {settings['layers']} layer(s) "
        f"and width {settings['width']} starts from random weights and takes "
        f"{settings['warm_up_steps']} updates with softplus(v), AdamW and float32 at batch "
        f"{settings['warm_up_batch']}, so that positives dominate; from there each arm goes on by "
        f"itself, with the same batches in the same order for all arms of a seed, for "
        f"{settings['examples']:,} examples, but at least {settings['least_steps']} and at most "
        f"{settings['most_steps']} updates. Temperature {settings['temperature']:g}. No gradient "
        "is clipped; the learning rate falls linearly to 0; SGD has no momentum. `bfloat16` is "
        "the encoder, the scores and the loss; parameters and optimiser are float32.",
        "Each arm is reported at the learning rate that is best on one half of the "
        f"{'STS-B dev pairs' if metric == 'spearman' else 'held-out queries'}, and scored on the "
        "other half. Differences are paired by seed; intervals are 95 % (Student's t), and p are "
        "corrected by Holm over all rows of a table. A difference whose interval covers 0 is "
        "called within the spread.",
        f"{outcomes.edges(found.chosen)} {outcomes.dropped(found.chosen)}",
        "What this cannot say: runs are short, encoders small, and the temperature is one. An arm "
        "that is better after these updates learns faster from them; where it would end is another "
        "question.",
    )
    if metric != "spearman":
        page.text("STS-B dev is scored where --root names a folder of data sets; here it was not.")
    page.text("Each question is a difference of two arms:")
    page.bullets([f"{one.name}: {one.contrast}: {one.asks}." for one in QUESTIONS])
    page.text(_dcl(found))
    page.bullets(found.conclusions)
    for name in found.compared:
        page.table(
            outcomes.by_part(found.chosen, name),
            f"{outcomes.METRICS[name]}: each question over all batch sizes.",
        )
    drawn = [plots.scores(found.chosen, name) for name in found.compared]
    drawn += [plots.differences(found.comparisons, name) for name in found.compared]
    drawn.append(plots.courses(found.chosen))
    for plot in drawn:
        page.plot(plot)
    page.table(
        tables.scores(found.chosen, [*found.compared, "alignment", "uniformity"]),
        "Scores at the best learning rate: mean ± standard deviation over seeds. Mean v and the "
        "gradient norm are means along the runs.",
    )
    seeds = max(len(one.runs) for one in found.chosen.values())
    for name in found.compared:
        page.table(
            tables.comparisons(found.comparisons, name),
            f"Paired differences of {outcomes.METRICS[name]}. With {seeds} seeds Wilcoxon's p is "
            f"at least {2 / 2**seeds:.3g}.",
        )
    return drawn


def _dcl(found: _Found) -> str:
    apart = max((record.values["dcl_apart"] for record in found.arithmetic), default=0.0)
    said = (
        f"DCL is not trained by itself. In part one no component of its gradient differs from "
        f"FlatNCE's by more than {answers.number(apart)}."
    )
    for record in found.checks:
        values = record.values
        said += (
            f" After {values['steps']} updates at batch {values['batch']} no parameter differs by "
            f"more than {answers.number(values['parameters'])}, where training moved them by up to "
            f"{answers.number(values['moved'])}: "
            f"{'they coincide.' if values['parameters'] <= 1e-3 * values['moved'] else 'they do not coincide.'}"  # noqa: E501
        )
    return said
