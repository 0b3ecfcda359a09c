import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from simjax.lab.bench import machine, report
from simjax.lab.bench.report import Column, Goal, Ratio, Report
from simjax.lab.bench.timing import Spread


def made() -> Report:
    return Report(
        "loss",
        {"device": "cpu", "cores": 2},
        {"pairs": [64, 128]},
        {
            "ours": {"seconds": [1.0, 2.0, 3.0], "growth_bytes": 5_000_000},
            "theirs": {"seconds": [4.0]},
        },
        [
            Ratio.of("time", Spread(0.5, 0.4, 0.6), Goal(0.65, "at most")),
            Ratio("memory", 0.2, goal=Goal(0.1, "at most")),
            Ratio("speed", 2.0),
        ],
        ["texts are few"],
    )


def test_goals() -> None:
    assert Goal(1.9, "at least").met(1.9)
    assert not Goal(1.9, "at least").met(1.89)
    assert Goal(0.65, "at most").met(0.65)
    assert not Goal(0.65, "at most").met(0.66)


def test_json_has_all_figures(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "figures.json"
    figures = made().write(file)
    assert json.loads(file.read_text()) == figures
    assert figures["contenders"]["ours"] == {
        "seconds": [1.0, 2.0, 3.0],
        "growth_bytes": 5_000_000,
        "median_seconds": 2.0,
        "low_seconds": 1.5,
        "high_seconds": 2.5,
    }
    assert figures["ratios"] == {
        "time": {"value": 0.5, "low": 0.4, "high": 0.6, "goal": "at most 0.65", "met": True},
        "memory": {"value": 0.2, "low": None, "high": None, "goal": "at most 0.1", "met": False},
        "speed": {"value": 2.0, "low": None, "high": None},
    }
    assert figures["notes"] == ["texts are few"]


def test_screen_tells_machine_figures_goals_and_notes() -> None:
    out = io.StringIO()
    columns = [
        Column("seconds", "time", report.seconds),
        Column("growth_bytes", "growth", report.size),
        Column("loss", "nobody has one"),
    ]
    made().show(columns, Console(file=out, width=100))
    lines = out.getvalue().splitlines()
    assert lines[0] == "loss on device cpu, cores 2"
    assert lines[1] == "pairs 64 128"
    row = next(line for line in lines if "ours" in line)
    assert "2.000 s (1.500-2.500)" in row and "5.0 MB" in row
    assert any("at most 0.65" in line and " met" in line for line in lines)
    assert any("at most 0.1 " in line and "not met" in line for line in lines)
    assert lines[-1] == "texts are few"
    assert "nobody" not in out.getvalue()


def test_sizes_and_times_in_words() -> None:
    assert report.size(2_500_000) == "2.5 MB"
    assert report.size(3e9) == "3.00 GB"
    assert report.seconds([0.012, 0.012, 0.012]) == "12.0 ms (12.0-12.0)"


def test_a_busy_machine_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 4)
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (1.0, 9.0, 9.0))
    assert machine.crowded() == ""
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (3.0, 0.0, 0.0))
    assert "load average 3.0 on 4 cores" in machine.crowded()
    assert Report.begin("encode", {}, "", "said").notes == ["said", machine.crowded()]


def test_the_machine_is_described() -> None:
    found = machine.describe()
    assert {"device", "processor", "cores", "jax", "torch", "sentence-transformers"} <= set(found)
    assert all(str(value) for value in found.values())
