"""The table of malformed inputs: what is wrong with each, and what is said of it.

A row is run through the command that reads it. An error is one line with its place, and its exit
status; it is never called a fault of simjax's, and nothing is written.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from simjax.data.sources import Source, read
from tests.cli.malformed import data_files, model_folders, recipes, records, texts
from tests.cli.malformed.rows import Row

ROWS = [*recipes.ROWS, *data_files.ROWS, *records.ROWS, *model_folders.ROWS, *texts.ROWS]

IN_PROCESSES = (
    "recipe: a misspelt key",
    "csv: an unclosed quote",
    "model: not a number",
    "texts: not UTF-8",
)
"""Rows that are run as the shell would, too."""


def made(row: Row, folder: Path, model: Path) -> list[str]:
    shutil.copytree(model, folder / "model")
    return row.make(folder)


def check(row: Row, folder: Path, status: int, out: str, err: str) -> None:
    told = err if row.status else out
    lines = [line for line in told.splitlines() if not line.startswith("encoding ")]  # a bar
    assert status == row.status, err
    for part in row.says:
        assert part.replace("{}", str(folder)) in lines[-1]
    output = folder / "out.npy"
    if row.status:
        assert len(lines) == 1 and lines[0].startswith("simjax: ")
        assert lines[0].isprintable() and len(lines[0]) < 2000
        assert "a fault of simjax's" not in err and not out
        assert not output.exists() and not (folder / "run" / "checkpoints").exists()
    else:
        assert np.isfinite(np.load(output)).all()


def test_the_table_is_long_and_each_row_is_of_its_own() -> None:
    assert len(ROWS) >= 60
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_malformed_input(row, simjax, model_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.chdir(tmp_path)
    arguments = made(row, tmp_path, model_folder)
    status, out, err = simjax(*arguments)
    check(row, tmp_path, status, out, err)


@pytest.mark.parametrize("name", data_files.SKIPPED)
def test_records_without_text_are_skipped_and_counted(name, tmp_path) -> None:
    file, content, kept, skipped = data_files.SKIPPED[name]
    (tmp_path / file).write_text(content, encoding="utf-8")
    examples = read(Source(path=file), tmp_path)
    assert len(list(examples)) == kept and examples.skipped == skipped


@pytest.mark.parametrize("name", IN_PROCESSES)
def test_malformed_input_of_a_process(name, model_folder, tmp_path) -> None:
    row = next(row for row in ROWS if row.name == name)
    done = subprocess.run(
        [sys.executable, "-m", "simjax", *made(row, tmp_path, model_folder)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    check(row, tmp_path, done.returncode, done.stdout, done.stderr)
