"""The report: one page of HTML, made from the measurements alone, with its CSV and PNG files."""

from __future__ import annotations

from pathlib import Path

from simjax.errors import SimjaxError
from simjax.lab.page import Page, write_report
from simjax.lab.plots import Plot
from simjax.lab.precision import answers, outcomes, plots, tables
from simjax.lab.precision.comparisons import QUESTIONS, Comparison, choose, compare, compared
from simjax.lab.precision.settings import RunKey
from simjax.lab.precision.study import ARITHMETIC, CHECKS, RUNS, Study
from simjax.lab.records import Record, identity


class _Found:
    """The measurements of a study, and what follows from them."""

    def __init__(self, folder: Path, study: Study) -> None:
        inputs, planned = study.planned()
        wanted = set(map(identity, inputs))
        every = list(study.records(folder, ARITHMETIC))
        self.arithmetic: list[Record] = [one for one in every if identity(one.key) in wanted]
        all_runs = list(study.records(folder, RUNS))
        keys = set(planned)
        self.runs: list[Record] = [one for one in all_runs if RunKey(**one.key) in keys]
        self.checks: list[Record] = list(study.records(folder, CHECKS))
        if not self.arithmetic and not self.runs:
            raise SimjaxError(f"{folder}: no measurement is there yet: nothing to report on")
        self.planned = (len(inputs), len(planned))
        self.chosen = [choose(self.runs, planned, name) for name in compared(self.runs)]
        self.comparisons: list[list[Comparison]] = [compare(one) for one in self.chosen]
        self.answers = answers.summary(self.arithmetic) if self.arithmetic else []
        self.conclusions = [
            line
            for chosen, rows in zip(self.chosen, self.comparisons, strict=True)
            for line in outcomes.conclusions(chosen, rows)
        ]
        self.expectations = [
            line
            for line in (
                outcomes.expectation(self.runs, self.arithmetic, "corpus"),
                outcomes.expectation(self.runs, self.arithmetic, "easy"),
            )
            if line is not None
        ]

    @property
    def unfinished(self) -> str | None:
        """What is missing, in a sentence."""
        made, asked = len(self.arithmetic) + len(self.runs), sum(self.planned)
        if made == asked:
            return None
        said = (
            f"This study is not finished: {made:,} of {asked:,} measurements are there "
            f"({len(self.arithmetic):,} of {self.planned[0]:,} inputs of part one, "
            f"{len(self.runs):,} of {self.planned[1]:,} runs of part two)."
        )
        if self.chosen and self.chosen[0].missing:
            said += (
                " Arms are compared where both have all of their rates and seeds. Not complete: "
                f"{outcomes.unfinished(self.chosen[0])}."
            )
        return said


def write(folder: Path, study: Study) -> tuple[Path, list[str]]:
    """Write the page, its tables and its plots.

    Returns:
        The page's path, and its answers and conclusions.

    Raises:
        SimjaxError: There are no measurements, they are malformed, or a file cannot be written.
    """
    found = _Found(folder, study)
    page = Page("Float error in InfoNCE, DCL and FlatNCE")
    _in_short(page, study, found)
    drawn: list[Plot] = []
    if found.arithmetic:
        drawn += _part_one(page, study, found)
    if found.runs:
        drawn += _part_two(page, study, found)
    rows = {
        "arithmetic": tables.input_rows(found.arithmetic),
        "exact": [{**record.key, **record.values["exact"]} for record in found.arithmetic],
        "runs": tables.run_rows(found.runs),
        "history": outcomes.history_rows(found.runs),
        "comparisons": [
            {"metric": chosen.metric, **row}
            for chosen, made in zip(found.chosen, found.comparisons, strict=True)
            for row in tables.comparisons(made)
        ],
    }
    path = write_report(folder, page, drawn, rows)
    lines = [] if found.unfinished is None else [found.unfinished]
    lines += [f"{question} {answer}" for question, answer in found.answers]
    return path, [*lines, *found.conclusions, *found.expectations]


def _in_short(page: Page, study: Study, found: _Found) -> None:
    if found.unfinished is not None:
        page.warning(found.unfinished)
    page.heading("What is asked, and the words for it")
    page.text(
        "An anchor is compared with its positive and with negatives; a score is a cosine divided "
        "by the temperature. v is the logsumexp over the negatives of (score minus the positive's "
        "score): far below 0 where the positive dominates. InfoNCE is softplus(v), DCL is v, and "
        "FlatNCE has DCL's gradient. InfoNCE's gradient is FlatNCE's times sigmoid(v), a factor "
        "that vanishes where the positive dominates. Code in use writes InfoNCE as a "
        "cross-entropy, which is the same number and, in floating point, another gradient: it is "
        "the difference of two nearly equal terms, which cancel.",
        "A unit of roundoff is the largest relative error of rounding one number to a type. A "
        f"gradient is called wrong that is off by more than {answers.WRONG:.0%} of its length.",
    )
    if found.answers:
        page.heading("Part one in short")
        for question, answer in found.answers:
            page.answer(question, answer)
    if found.runs:
        page.heading("Part two in short")
        page.bullets([*found.conclusions, *found.expectations])
    page.heading("How it was made")
    page.commands(study.commands)
    page.text("On " + ", ".join(f"{name} {value}" for name, value in study.machine.items()) + ".")


def _part_one(page: Page, study: Study, found: _Found) -> list[Plot]:
    settings, records = study.arithmetic, found.arithmetic
    draws = {tuple(r.key[name] for name in ("batch", "noise", "draw")) for r in records}
    page.heading("Part one: arithmetic")
    page.heading("How much is cancellation?", 3)
    page.bullets(answers.cancellation(records))
    page.heading("How much is the vanishing factor?", 3)
    page.bullets(answers.vanishing(records))
    page.heading("What remains?", 3)
    page.bullets(answers.remaining(records))
    page.heading("How part one was measured", 3)
    page.text(
        f"Random unit vectors of width {settings['width']}; a positive is its anchor plus a random "
        "vector of a length that is called noise, on the sphere again (0.3: cosine 0.96, easy; 1: "
        "0.71; 3: 0.32, hard). Measured is the gradient of the sum of the losses by the anchors "
        f"alone, not by the keys, for at most {settings['anchors']} anchors of a batch against all "
        "of its keys; an anchor's gradient does not depend on other anchors. The relative error is "
        "|g - g*| / |g*|, with g* the closed form in float64 on the same rounded inputs.",
        f"There are {len(records):,} inputs made of {len(draws):,} distinct draws: every "
        "temperature sees the same draws. A draw of a small batch holds several batches, up to "
        f"{settings['pooled']} anchors; errors are those of all their gradients together, exact "
        "figures (cosine, lengths, weights) are of one batch, the median of the draw's.",
        "“bfloat16 operands” and “float16 operands” round embeddings and keep scores in float32; "
        "“bfloat16” and “float16” compute everything in 16 bits. “Dense” holds all scores and "
        "returns the gradient in the operands' type; “tiled” is the operator that training uses, "
        "which never holds them, returns float32, has its scores in float32 always, and takes no "
        "float16. There is no loss scaling: that float16 runs out of range is part of the result. "
        "Of the tiled operator, cross-entropy is logsumexp over all keys minus the positive's "
        "score (in one sweep; “logsumexp - positive” makes the scores again in its backward pass).",
        _about_tf32(records),
    )
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
    page.heading("Part two: training")
    page.text("Each question is a difference of two arms; an arm is a loss that is trained with:")
    page.bullets([f"{one.name}: {one.contrast}: {one.asks}." for one in QUESTIONS])
    for chosen in found.chosen:
        page.table(
            outcomes.by_part(chosen),
            f"{outcomes.METRICS[chosen.metric]}: each question over the batch sizes that are "
            "complete; p are corrected by Holm over this table.",
        )
    page.text(*outcomes.trouble(found.runs, found.chosen[0]), *map(outcomes.edges, found.chosen))
    page.text(_dcl(found))
    page.heading("How part two was measured", 3)
    _about_training(page, study, found)
    drawn = []
    for chosen, rows in zip(found.chosen, found.comparisons, strict=True):
        if chosen.settings():
            drawn.append(plots.scores(chosen))
        if rows:
            drawn.append(plots.differences(rows, chosen.metric))
    if found.chosen[0].settings():
        drawn.append(plots.courses(found.chosen[0]))
    for plot in drawn:
        page.plot(plot)
    page.table(
        tables.scores(found.chosen),
        "Scores, each at the learning rate that is best for it: mean ± standard deviation over "
        "seeds. Alignment, uniformity, mean v and gradient norm (means along the runs) are at the "
        f"rate for {found.chosen[0].metric}.",
    )
    for chosen, rows in zip(found.chosen, found.comparisons, strict=True):
        pairs = max((row.difference.count for row in rows), default=0)
        least = f" With {pairs} seeds Wilcoxon's p is at least {2 / 2**pairs:.3g}." if pairs else ""
        page.table(
            tables.comparisons(rows),
            f"Paired differences of {outcomes.METRICS[chosen.metric]}; p are corrected by Holm "
            f"over this table.{least}",
        )
    return drawn


def _about_training(page: Page, study: Study, found: _Found) -> None:
    settings = study.training
    names = [chosen.metric for chosen in found.chosen]
    sts = "STS-B dev pairs for Spearman, " if "spearman" in names else ""
    page.text(
        f"Texts: {study.corpus}; {study.texts['pairs']:,} pairs are trained on and "
        f"{study.texts['held out']:,} are held out. An encoder of {settings['layers']} layer(s) "
        f"and width {settings['width']} starts from random weights and takes "
        f"{settings['warm_up_steps']} updates with softplus(v), AdamW and float32 at batch "
        f"{settings['warm_up_batch']}; from there each arm goes on by itself, with the same "
        f"batches in the same order for all arms of a seed, for {settings['examples']:,} examples, "
        f"but at least {settings['least_steps']} and at most {settings['most_steps']} updates. "
        f"Temperature {settings['temperature']:g}. No gradient is clipped; the learning rate falls "
        "linearly to 0; SGD has no momentum. “bfloat16” is the encoder, the scores and the loss; "
        "parameters and optimiser are float32.",
        "Easy pairs are a block by itself: texts and the same without their last word, at "
        f"temperature {settings['easy_temperature']:g}, with AdamW, cross-entropy and softplus(v) "
        "alone; everything else is the same. There positives dominate, so that cancellation can "
        "show in training if it does anywhere.",
        "An arm's learning rate is chosen for each score by itself, on one half of its data "
        f"({sts}held-out queries for nDCG), and the score is of the other half. Differences are "
        "paired by seed; intervals are 95 % (Student's t) and by themselves; p are corrected by "
        f"Holm. Of a difference whose interval covers 0 it is said whether {outcomes.MATTERS:g} or "
        "more can be ruled out, and if not, what would have been found in 4 cases of 5.",
        "What this cannot say: runs are short, encoders small, and temperatures few. An arm that "
        "is better after these updates learns faster from them; where it would end is another "
        "question.",
    )
    if "spearman" not in names:
        page.text("STS-B dev is scored where --root names a folder of data sets; here it was not.")


def _dcl(found: _Found) -> str:
    said = "DCL is not trained by itself."
    apart = [record.values["dcl_apart"] for record in found.arithmetic]
    if None in apart:
        said += f" In part one its gradient was not FlatNCE's on {apart.count(None)} inputs."
    elif apart:
        said += (
            " In part one no component of its gradient differs from FlatNCE's by more than "
            f"{answers.number(max(apart))}."
        )
    for record in found.checks:
        values = record.values
        if values["parameters"] is None or values["moved"] is None:
            said += f" Trained at batch {record.key['batch']}, one of the two diverged."
            continue
        same = values["parameters"] <= 1e-3 * values["moved"]
        said += (
            f" After {values['steps']} updates at batch {record.key['batch']} no parameter differs "
            f"by more than {answers.number(values['parameters'])}, where training moved them by up "
            f"to {answers.number(values['moved'])}: "
            f"{'they coincide.' if same else 'they do not coincide.'}"
        )
    return said
