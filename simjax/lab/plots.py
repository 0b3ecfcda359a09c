"""Pictures as PNG, and what the plots of all studies have in common."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Plot:
    """A picture and what it shows.

    Attributes:
        name: Of its file, without `.png`.
        caption: What it shows.
        png: The picture.
    """

    name: str
    caption: str
    png: bytes


def panels(
    rows: int, columns: int, size: tuple[float, float] = (4.2, 3.4), **options: Any
) -> tuple[Any, Any]:
    """A figure, and an array [rows, columns] of its axes.

    Args:
        rows: Of panels.
        columns: Of panels.
        size: Width and height of a panel, in inches.
        options: As of matplotlib's `subplots`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot there is no global state, and no display is looked for.
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def plain_ticks(axis: Any, values: Sequence[float]) -> None:
    """These numbers, as they are, along a logarithmic axis."""
    axis.set_xticks(list(values), [f"{value:,}" for value in values], fontsize=7)
    axis.minorticks_off()


def legend(figure: Any, axis: Any, columns: int) -> None:
    """What the lines of a panel are, under the panels, where no data are."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8)


def png(figure: Any) -> bytes:
    """The picture; equal figures give equal bytes."""
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=100, metadata={"Software": None})
    return held.getvalue()
