"""Figures of a benchmark: on the screen as tables, in a file as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from simjax.lab.bench import machine
from simjax.lab.bench.timing import Spread, spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from rich.table import Table


@dataclass(frozen=True)
class Goal:
    """What a ratio is meant to reach."""

    bound: float
    kind: Literal["at least", "at most"]

    def met(self, value: float) -> bool:
        """Whether a value reaches it."""
        return value >= self.bound if self.kind == "at least" else value <= self.bound


@dataclass(frozen=True)
class Ratio:
    """A figure that compares two others.

    Attributes:
        name: What is divided by what, in words.
        value: The figure.
        low: Lower quartile over the rounds, None where there are none.
        high: Upper quartile.
        goal: None where the figure only informs.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    goal: Goal | None = None

    @classmethod
    def of(cls, name: str, values: Spread, goal: Goal | None = None) -> Ratio:
        """A ratio that was taken round by round."""
        return cls(name, values.median, values.low, values.high, goal)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        figures: dict[str, Any] = {"value": self.value, "low": self.low, "high": self.high}
        if self.goal is not None:
            figures["goal"] = f"{self.goal.kind} {self.goal.bound:g}"
            figures["met"] = self.goal.met(self.value)
        return figures


@dataclass
class Report:
    """What one benchmark found.

    Attributes:
        bench: Its name on the command line.
        machine: What it ran on, and with which versions.
        settings: What it was asked to measure.
        contenders: Figures of each contender; `seconds` is a list with one time per round.
        ratios: Comparisons.
        notes: What a reader must know: what was skipped, where texts came from.
    """

    bench: str
    machine: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    contenders: dict[str, dict[str, Any]] = field(default_factory=dict)
    ratios: list[Ratio] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, bench: str, settings: dict[str, Any], *notes: str) -> Report:
        """A report on this machine, with those of the notes that are not empty."""
        said = [note for note in (*notes, machine.crowded()) if note]
        return cls(bench, machine.describe(), settings, notes=said)

    def ratio(self, name: str) -> Ratio:
        """The ratio of that name.

        Raises:
            KeyError: there is none.
        """
        for ratio in self.ratios:
            if ratio.name == name:
                return ratio
        raise KeyError(name)

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain values; `low` and `high` are quartiles."""
        contenders = {}
        for name, figures in self.contenders.items():
            figures = dict(figures)
            if "seconds" in figures:
                middle = spread(figures["seconds"])
                figures |= {
                    "median_seconds": middle.median,
                    "low_seconds": middle.low,
                    "high_seconds": middle.high,
                }
            contenders[name] = figures
        return {
            "bench": self.bench,
            "machine": self.machine,
            "settings": self.settings,
            "contenders": contenders,
            "ratios": {ratio.name: ratio.as_json() for ratio in self.ratios},
            "notes": self.notes,
        }

    def show(self, columns: Sequence[Column], console: Console | None = None) -> None:
        """Print machine, settings, contenders and ratios."""
        from rich.console import Console

        # Wide enough for the tables also where the output is a file.
        console = console or Console()
        if not console.is_terminal:
            console.width = max(console.width, 110)
        where = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        console.print(f"[bold]{self.bench}[/] on {where}", highlight=False)
        settings = ", ".join(f"{key} {_plain(value)}" for key, value in self.settings.items())
        console.print(settings, highlight=False, markup=False)
        console.print(_contenders(self, columns))
        if self.ratios:
            console.print(_ratios(self.ratios))
        for note in self.notes:
            console.print(note, highlight=False, markup=False)

    def write(self, path: Path | None) -> dict[str, Any]:
        """The figures, written as JSON where a file is asked for.

        Raises:
            SimjaxError: The file cannot be written.
        """
        figures = self.as_json()
        if path is not None:
            from simjax.eval.report import write_json

            write_json(path, figures)
        return figures


@dataclass(frozen=True)
class Column:
    """A column of the contenders' table, of one key of their figures."""

    key: str
    heading: str
    format: Callable[[Any], str] = str


def seconds(times: Sequence[float]) -> str:
    """Median and quartiles of times."""
    middle = spread(times)
    if middle.median < 0.1:
        return f"{1e3 * middle.median:.1f} ms ({1e3 * middle.low:.1f}-{1e3 * middle.high:.1f})"
    return f"{middle.median:.3f} s ({middle.low:.3f}-{middle.high:.3f})"


def size(count: float) -> str:
    """A number of bytes."""
    if abs(count) >= 1e9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.1f} MB"


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _contenders(report: Report, columns: Sequence[Column]) -> Table:
    from rich.table import Table

    table = Table("contender")
    shown = [c for c in columns if any(c.key in row for row in report.contenders.values())]
    for column in shown:
        table.add_column(column.heading, justify="right")
    for name, row in report.contenders.items():
        cells = [column.format(row[column.key]) if column.key in row else "" for column in shown]
        table.add_row(name, *cells)
    return table


def _ratios(ratios: Sequence[Ratio]) -> Table:
    from rich.table import Table

    table = Table("ratio")
    for heading in ("value", "middle half", "goal", ""):
        table.add_column(heading, justify="right")
    for ratio in ratios:
        middle = "" if ratio.low is None else f"{ratio.low:.3g}-{ratio.high:.3g}"
        goal = mark = ""
        if ratio.goal is not None:
            goal = f"{ratio.goal.kind} {ratio.goal.bound:g}"
            mark = "[green]met[/]" if ratio.goal.met(ratio.value) else "[red]not met[/]"
        table.add_row(ratio.name, f"{ratio.value:.3g}", middle, goal, mark)
    return table


@contextmanager
def telling() -> Iterator[Callable[[str], None]]:
    """A line on the screen that says what is going on, and goes away afterwards."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("preparing") as status:
        yield status.update
