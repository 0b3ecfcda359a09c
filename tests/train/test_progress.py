from __future__ import annotations

import io
import logging
import sys

import pytest
from rich.console import Console
from rich.table import Table

from simjax.train import progress
from simjax.train.progress import Progress

FIGURES = {"loss": 1.25, "pairs_per_second": 812.4, "tokens_per_second": 23456.0, "fill": 0.953}


class Screen:
    """What a terminal shows: understands carriage return, cursor up, and erasing."""

    def __init__(self, text: str) -> None:
        self.rows, row, column, rest = [""], 0, 0, text
        while rest:
            if rest.startswith("\x1b["):
                end = next(i for i, c in enumerate(rest[2:], 2) if c.isalpha())
                number, kind = rest[2:end], rest[end]
                if kind == "A":
                    row -= int(number or 1)
                elif kind == "K":
                    self.rows[row] = ""
                rest = rest[end + 1 :]
                continue
            char, rest = rest[0], rest[1:]
            if char == "\n":
                row, column = row + 1, 0
                if row == len(self.rows):
                    self.rows.append("")
            elif char == "\r":
                column = 0
            else:
                line = self.rows[row].ljust(column)
                self.rows[row] = line[:column] + char + line[column + 1 :]
                column += 1
        self.rows = [line.rstrip() for line in self.rows if line.strip()]


def test_plain_lines_where_there_is_no_terminal(monkeypatch):
    clock = iter([0.0, 0.0, *range(10, 1000, 10)])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    with Progress(25, log_every=10, console=Console(file=out, width=40)) as bar:
        for step in range(1, 26):
            bar.update(step, **FIGURES)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert [line.split("  ")[0] for line in lines] == ["step 10/25", "step 20/25", "step 25/25"]
    assert lines[0].endswith(
        "loss 1.2500  812 pairs/s  23.5k tokens/s  fill 95%  2:30 left"  # 15 steps of 10 s
    )


def test_the_first_compilation_is_told(monkeypatch):
    out = io.StringIO()
    with Progress(100, console=Console(file=out)) as bar:
        bar.compiling(1)
        bar.compiling(2)
    with Progress(100, console=Console(file=out), enabled=False) as bar:
        bar.compiling(1)
    assert out.getvalue() == "compiling the step\n"
    out = io.StringIO()
    console = Console(file=out, width=60, force_terminal=True, color_system=None)
    with Progress(100, console=console) as bar:
        bar.compiling(2)
    assert Screen(out.getvalue()).rows[-1].endswith("0/100 compiling")


def test_skipped_steps_still_give_a_line():
    out = io.StringIO()
    with Progress(100, log_every=10, console=Console(file=out)) as bar:
        for step in (3, 9, 14, 19, 33):
            bar.update(step, **FIGURES)
    assert [line.split("/")[0] for line in out.getvalue().splitlines()] == ["step 14", "step 33"]


def test_a_resumed_run_reckons_with_its_own_steps(monkeypatch):
    clock = iter([0.0, 0.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    with Progress(100, start_step=90, log_every=1, console=Console(file=out, width=200)) as bar:
        bar.update(91, **FIGURES)
    assert out.getvalue().rstrip().endswith("1:30 left")  # nine steps of ten seconds


def test_nothing_tears_the_bar(monkeypatch):
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, color_system=None)
    handler = logging.StreamHandler(sys.__stderr__)
    logger = logging.getLogger("absl")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    with Progress(25, console=console) as bar:
        bar.update(10, **FIGURES)
        print("printed")
        sys.stderr.write("to standard error\n")
        logger.warning("logged")
        table = Table("task", "spearman")
        table.add_row("stsb", "0.86")
        bar.print(table)
        bar.update(25, **FIGURES)
    assert handler.stream is sys.__stderr__
    rows = Screen(out.getvalue()).rows
    assert [row for row in rows if row.startswith("training")] == rows[-1:]
    assert "25/25 loss 1.2500  812 pairs/s  23.5k tokens/s  fill 95%" in rows[-1]
    for text in ("printed", "to standard error", "logged"):
        assert text in rows
    assert any("│ stsb" in row for row in rows)


def test_silent_processes_show_nothing(capsys):
    with Progress(5, log_every=1, enabled=False) as bar:
        bar.update(5, **FIGURES)
        bar.print("text")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (36061, "10:01:01")]
)
def test_clock(seconds, shown):
    assert progress._clock(seconds) == shown
