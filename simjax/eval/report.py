"""Scores for people and programs: a table, a JSON file, a plot."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from simjax.errors import SimjaxError
from simjax.eval.comparison import NAMES as COMPARISONS

if TYPE_CHECKING:
    from rich.table import Table


def table(columns: Mapping[str, Mapping[str, float]], title: str | None = None) -> Table:
    """A table of one or more runs side by side.

    Args:
        columns: For each heading ("before", "after", "TF-IDF"), scores by name. A score that a
            column lacks is left blank.
        title: Printed above.
    """
    from rich.table import Table

    result = Table(title=title)
    result.add_column("task")
    result.add_column("score")
    for heading in columns:
        result.add_column(heading, justify="right")
    names = list(dict.fromkeys(name for scores in columns.values() for name in scores))
    previous = None
    for name in names:
        task, _, metric = name.partition("/")
        if previous is not None and task != previous:
            result.add_section()
        cells = [_cell(metric, s[name]) if name in s else "" for s in columns.values()]
        result.add_row("" if task == previous else task, metric, *cells)
        previous = task
    return result


def _cell(metric: str, value: float) -> str:
    # Distances have no usual size; the other scores are times 100, or of the size of 1.
    return f"{value:.4g}" if metric in COMPARISONS else f"{value:.2f}"


def write_json(path: Path | str, figures: Mapping[str, object]) -> None:
    """Write figures as JSON: whole or not at all, and never NaN, which is not JSON.

    Numbers that are not finite become null.

    Raises:
        SimjaxError: The file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(_plain(figures), indent=2, allow_nan=False) + "\n")
        os.replace(partial, path)
    except OSError as error:
        raise SimjaxError(f"{path}: cannot be written ({error.strerror})") from error


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def plot(
    path: Path | str,
    columns: Mapping[str, Mapping[str, float]],
    spectra: Mapping[str, Float[np.ndarray, "D"]],
) -> None:
    """Draw scores as bars, and singular values relative to the largest, into a PNG file.

    Args:
        path: The file to write.
        columns: As for `table`. Geometry is left to the second panel.
        spectra: Singular values, largest first, by label.

    Raises:
        SimjaxError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [
        name
        for name in dict.fromkeys(name for scores in columns.values() for name in scores)
        if name.rsplit("/", 1)[-1]
        not in ("alignment", "uniformity", "effective_rank", *COMPARISONS)
    ]
    # Without pyplot there is no global state, and no display is looked for.
    figure = Figure(figsize=(11, max(3.0, 0.28 * len(names) * max(1, len(columns)))))
    FigureCanvasAgg(figure)
    bars, lines = figure.subplots(1, 2)
    height = 0.8 / max(1, len(columns))
    for index, (heading, scores) in enumerate(columns.items()):
        places = [row + index * height for row, name in enumerate(names) if name in scores]
        bars.barh(places, [scores[n] for n in names if n in scores], height, label=heading)
    bars.set_yticks([row + 0.4 - height / 2 for row in range(len(names))], names)
    bars.invert_yaxis()
    bars.set_xlabel("score x 100")
    if columns:
        bars.legend()
    for label, values in spectra.items():
        lines.semilogy(np.arange(1, len(values) + 1), values / max(values[0], 1e-30), label=label)
    lines.set_xlabel("singular value")
    lines.set_ylabel("relative to the largest")
    if spectra:
        lines.legend()
    figure.tight_layout()
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise SimjaxError(f"{path}: cannot be written ({error.strerror})") from error
