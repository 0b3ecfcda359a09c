"""What became of a run, on a page and in a picture: `summary.md` and `summary.png`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from simjax.errors import SimjaxError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE, PICTURE = "summary.md", "summary.png"
EVALUATION = "eval/"
Line = Mapping[str, Any]
"""A line of `metrics.jsonl`: `step`, and numbers or None."""


def write(
    folder: Path,
    lines: Sequence[Line],
    *,
    scores: Mapping[str, Mapping[str, float]],
    exported: int,
    total_steps: int,
) -> None:
    """Writes both files, in place of those that are there.

    Args:
        folder: The run folder.
        lines: Of its `metrics.jsonl`.
        scores: For each heading ("before", "step 500", "TF-IDF"), evaluation scores by name.
        exported: The step whose model is exported.
        total_steps: Updates that the run was to have.

    Raises:
        SimjaxError: They cannot be written.
    """
    page = _page(folder.name, lines, scores, exported, total_steps)
    try:
        (folder / PAGE).write_text(page, encoding="utf-8")
        with (folder / PICTURE).open("wb") as file:
            draw(lines, exported).savefig(file, format="png", dpi=100)
    except OSError as error:
        raise SimjaxError(f"{folder / PAGE}: cannot be written ({error.strerror})") from error


def _series(lines: Sequence[Line], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a figure, where it is a number."""
    found = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    return [step for step, _ in found], [float(value) for _, value in found]


def _uniformity(lines: Sequence[Line]) -> str:
    """Within the views where the run has it, else across them."""
    return "uniformity" if _series(lines, "uniformity")[1] else "uniformity_cross"


_FIGURES = {
    "loss": ("loss", "{:.4g}"),
    "alignment": ("alignment", "{:.4g}"),
    "uniformity": ("uniformity", "{:.4g}"),
    "uniformity_cross": ("uniformity across views", "{:.4g}"),
    "accuracy": ("accuracy", "{:.4g}"),
    "grad_norm": ("gradient norm", "{:.4g}"),
}


def _page(
    name: str,
    lines: Sequence[Line],
    scores: Mapping[str, Mapping[str, float]],
    exported: int,
    total_steps: int,
) -> str:
    parts = [f"# {name}", _facts(lines, exported, total_steps), _course(lines), _scores(scores)]
    parts.append(f"![Loss, alignment against uniformity, scores]({PICTURE})")
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(lines: Sequence[Line], exported: int, total_steps: int) -> str:
    done = max((line["step"] for line in lines), default=0)
    rows = [["steps", f"{done:,} of {total_steps:,}"], ["exported", f"step {exported:,}"]]
    for name, what, form, reduce in (
        ("pairs_per_second", "examples a second, median", "{:,.0f}", median),
        ("tokens_per_second", "tokens a second, median", "{:,.0f}", median),
        ("fill", "fill of packed rows", "{:.2f}", median),
        ("compile_seconds", "compilation of the step, s", "{:.1f}", sum),
        ("memory_peak", "peak memory, GB", "{:.2f}", lambda values: max(values) / 1e9),
    ):
        values = _series(lines, name)[1]
        if values:
            rows.append([what, form.format(reduce(values))])
    return _table(["what", "figure"], rows)


def _course(lines: Sequence[Line]) -> str:
    rows = []
    for name, (what, form) in _FIGURES.items():
        values = _series(lines, name)[1]
        if values:
            ends = (values[0], values[-1], min(values), max(values))
            rows.append([what, *(form.format(value) for value in ends)])
    return _table(["in training", "first", "last", "lowest", "highest"], rows) if rows else ""


def _scores(scores: Mapping[str, Mapping[str, float]]) -> str:
    names = dict.fromkeys(name for column in scores.values() for name in column)
    rows = [
        [name, *(f"{c[name]:.2f}" if name in c else "" for c in scores.values())] for name in names
    ]
    return _table(["score", *scores], rows) if rows else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def draw(lines: Sequence[Line], exported: int) -> Figure:
    """Three panels: loss, alignment against uniformity along the run, and scores by step.

    A panel without figures says so.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot there is no global state, and no display is looked for.
    figure = Figure(figsize=(12.6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    _draw_loss(left, lines)
    _draw_alignment(figure, middle, lines)
    _draw_scores(right, lines, exported)
    for axis in (left, middle, right):
        if not axis.has_data():
            axis.text(0.5, 0.5, "no figures", ha="center", color="0.5", transform=axis.transAxes)
    return figure


def _draw_loss(axis: Any, lines: Sequence[Line]) -> None:
    steps, losses = _series(lines, "loss")
    axis.set_title("loss", fontsize=10)
    axis.set_xlabel("step")
    if not steps:
        return
    axis.plot(steps, losses, color="tab:blue", linewidth=1.0, alpha=0.5)
    if min(losses) > 0 and max(losses) > 20 * min(losses):
        axis.set_yscale("log")
    # The mean of the last twentieth of the run.
    width, total = max(1, len(losses) // 20), np.cumsum([0.0, *losses])
    end = np.arange(1, len(losses) + 1)
    begin = np.maximum(0, end - width)
    axis.plot(steps, (total[end] - total[begin]) / (end - begin), color="tab:blue", linewidth=1.8)


def _draw_alignment(figure: Any, axis: Any, lines: Sequence[Line]) -> None:
    name = _uniformity(lines)
    both = [line for line in lines if None not in (line.get("alignment"), line.get(name))]
    axis.set_title("alignment against uniformity", fontsize=10)
    axis.set_xlabel(_FIGURES[name][0])
    axis.set_ylabel("alignment")
    if not both:
        return
    x, y = ([float(line[key]) for line in both] for key in (name, "alignment"))
    axis.plot(x, y, color="0.8", linewidth=0.8, zorder=1)
    steps = [line["step"] for line in both]
    points = axis.scatter(x, y, c=steps, s=14, cmap="viridis", zorder=2)
    figure.colorbar(points, ax=axis, label="step")


_GEOMETRY = ("alignment", "uniformity", "effective_rank")


def _draw_scores(axis: Any, lines: Sequence[Line], exported: int) -> None:
    names = dict.fromkeys(name for line in lines for name in line if name.startswith(EVALUATION))
    chosen = [name for name in names if not name.endswith(_GEOMETRY)]
    axis.set_title("scores of the evaluation", fontsize=10)
    axis.set_xlabel("step")
    for name in chosen[:10]:
        steps, values = _series(lines, name)
        axis.plot(steps, values, marker="o", markersize=3, label=name.removeprefix(EVALUATION))
    if chosen:
        axis.axvline(exported, color="0.6", linewidth=0.8, linestyle="--")
        axis.legend(fontsize=7)
