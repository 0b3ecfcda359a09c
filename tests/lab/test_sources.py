"""Which code a study is of: all that measures, and nothing that only tells."""

import ast
import re
from pathlib import Path

import pytest

from simjax.lab import precision, scaling, sweep
from simjax.lab.precision import study as precision_study
from simjax.lab.scaling import study as scaling_study
from simjax.lab.sources import MEASURE, PACKAGE, sources
from simjax.lab.sweep import study as sweep_study

STUDIES = [
    (precision, precision_study, {"arithmetic", "tiled", "training", "scoring", "system"}),
    (scaling, scaling_study, {"recipe", "grid"}),
    (sweep, sweep_study, {"runs", "recipe", "inputs"}),
]
TOLD_BY = {"command", "page", "plots", "reading", "statistics"}
"""Shared modules that measure nothing."""
KEPT_BY = {"checkpoint", "errors.py", "export.py", "index", "model_card.py", "processes", "lab"}
KEPT_BY |= {"remote.py"}
"""Parts of simjax that what measures imports, and that decide no figure: they keep and refuse."""


@pytest.mark.parametrize(("package", "study", "measuring"), STUDIES)
def test_what_measures_is_hashed_and_what_only_tells_is_not(package, study, measuring, monkeypatch):
    read = []
    real = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: read.append(path.relative_to(PACKAGE)) or real(path)
    )
    own = Path(package.__file__).parent
    assert sources(own, study.TOLD_BY) == sources(own, study.TOLD_BY)
    hashed = {path.stem for path in read if path.parent == own.relative_to(PACKAGE)}
    assert measuring <= hashed and hashed.isdisjoint(study.TOLD_BY)
    assert {path.stem for path in own.glob("*.py")} >= study.TOLD_BY
    assert {"ops/api.py", "train/step.py", "mesh.py", "eval/tasks.py"} <= set(map(str, read))


@pytest.mark.parametrize(("package", "study", "measuring"), STUDIES)
def test_what_measures_needs_nothing_that_only_tells(package, study, measuring):
    name = package.__name__
    for path in Path(package.__file__).parent.glob("*.py"):
        if path.stem not in study.TOLD_BY:
            text = path.read_text()
            assert study.TOLD_BY.isdisjoint(re.findall(rf"{name}(?:\.| import )(\w+)", text)), path
            named = re.findall(r"simjax\.lab(?:\.| import )(\w+)", text)
            assert TOLD_BY.isdisjoint(named), path
            swept = re.findall(r"simjax\.lab\.sweep(?:\.| import )(\w+)", text)
            assert sweep_study.TOLD_BY.isdisjoint(swept), path


def test_all_that_measuring_code_imports_is_hashed():
    files = [
        path
        for package, study, _ in STUDIES
        for path in Path(package.__file__).parent.glob("*.py")
        if path.stem not in study.TOLD_BY
    ]
    files += [path for part in MEASURE for path in (PACKAGE / part).rglob("*.py")]
    found = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("simjax"):
                steps = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                part = steps[1]
                found.add(part if (PACKAGE / part).is_dir() else f"{part}.py")
    assert found - {"__version__.py"} <= {*MEASURE, *KEPT_BY}


def test_a_change_is_seen(tmp_path, monkeypatch):
    assert all((PACKAGE / part).exists() for part in MEASURE)
    monkeypatch.setattr("simjax.lab.sources.PACKAGE", tmp_path)
    own = tmp_path / "lab" / "views"
    files = [own / "runs.py", own / "tables.py", tmp_path / "train" / "step.py"]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    before = sources(own, {"tables"})
    (own / "tables.py").write_text("2")
    assert sources(own, {"tables"}) == before
    (tmp_path / "train" / "step.py").write_text("2")
    changed = sources(own, {"tables"})
    assert changed != before
    (own / "runs.py").rename(own / "walks.py")
    assert sources(own, {"tables"}) not in (before, changed)
