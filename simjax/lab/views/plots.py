"""The plots of the study, and what each of them shows, in words from its own numbers."""

from __future__ import annotations

from simjax.lab.plots import Plot, panels, png
from simjax.lab.statistics import Spread
from simjax.lab.views.arms import ARMS, TABLES, Setting, Table
from simjax.lab.views.tables import FIRST, Outcomes

_SIZE = (5.6, 4.2)


def quality(outcomes: Outcomes) -> Plot:
    """The metric of every arm, a panel for each table."""
    compared: list[Table] = [table for table in TABLES if len(outcomes.of_table(table)) > 1]
    tables = compared or ["augmentation"]
    figure, axes = panels(len(tables), 1, (6.4, 3.0))
    start: list[tuple[float, ...]] = []
    for (axis,), table in zip(axes, tables, strict=True):
        settings = [s for s in outcomes.of_table(table) if outcomes.scores(s)]
        found = [Spread.of(list(outcomes.scores(s).values())) for s in settings]
        axis.errorbar(
            [one.mean for one in found],
            range(len(found)),
            xerr=[one.deviation for one in found],
            fmt="o",
            capsize=3,
        )
        axis.set_yticks(range(len(found)), [ARMS[s.arm].words for s in settings], fontsize=7)
        axis.invert_yaxis()
        if FIRST in settings:
            axis.axvline(found[settings.index(FIRST)].mean, color="0.7", linewidth=1)
        for setting in settings:
            start = start or outcomes.path(setting, outcomes.metric.rsplit("/", 1)[1])[:1]
        if start:
            axis.axvline(start[0][0], color="0.7", linestyle=":", linewidth=1)
        axis.set_title(TABLES[table], fontsize=9)
    axes[-1][0].set_xlabel(outcomes.metric)
    before = f" The dotted line is where runs start ({start[0][0]:.2f})." if start else ""
    return Plot(
        "quality",
        f"{outcomes.metric} of the last step; bars are one standard deviation over seeds, the line "
        f"is dropout alone.{before}",
        png(figure),
    )


def geometry(outcomes: Outcomes) -> Plot | None:
    """How alignment and uniformity move while each arm is trained (SimCSE's figure 3)."""
    paths = {s: outcomes.path(s, "uniformity", "alignment") for s in outcomes.settings}
    drawn = {s: points for s, points in paths.items() if points}
    if not drawn:
        return None
    tables = [t for t in TABLES if any(t in ARMS[s.arm].tables for s in drawn)]
    figure, (axes,) = panels(1, len(tables), _SIZE)
    for axis, table in zip(axes, tables, strict=True):
        of = [s for s in drawn if table in ARMS[s.arm].tables]
        for place, setting in enumerate(of):
            x, y = zip(*drawn[setting], strict=True)
            axis.plot(x, y, color=f"C{place % 10}", marker=".", linewidth=1, label=str(setting),
                linestyle="-" if place < 10 else "--")  # fmt: skip
            axis.plot(x[-1:], y[-1:], color=f"C{place % 10}", marker="o")
        axis.set_title(TABLES[table], fontsize=9)
        axis.set_xlabel("uniformity (lower is more even)")
        axis.set_ylabel("alignment (lower is closer)")
        axis.legend(fontsize=6)
    return Plot("trajectory", _moves(drawn), png(figure))


def _moves(drawn: dict[Setting, list[tuple[float, ...]]]) -> str:
    evener = [s for s, points in drawn.items() if points[-1][0] < points[0][0]]
    closer = [s for s, points in drawn.items() if points[-1][1] < points[0][1]]
    return (
        "Alignment and uniformity at each evaluation, means over seeds; a large mark is the end. "
        f"From start to end uniformity falls in {len(evener)} of {len(drawn)} arms and alignment "
        f"in {len(closer)}"
        + (f" ({'; '.join(map(str, closer))})." if 0 < len(closer) < len(drawn) else ".")
    )
