"""Look after data sets."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from simjax.cli.arguments import add_command, add_json
from simjax.cli.datasets import DATA_SETS, DataSet, File, count_rows, find
from simjax.errors import SimjaxError, UsageError

Status = Literal["ok", "missing", "wrong"]


@dataclass(frozen=True)
class Finding:
    """What became of one file, or of the set that it stands for."""

    status: Status
    detail: str = ""
    rows: int | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `check`."""
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)
    add_command(
        commands,
        "check",
        "verify the data sets of a folder: layout, columns, encoding and row counts",
        _add_check_arguments,
        run_check,
    )


def _add_check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "root",
        metavar="ROOT",
        nargs="?",
        type=Path,
        default=os.environ.get("SIMJAX_DATA"),
        help="folder of data sets; without it, the one that SIMJAX_DATA names",
    )
    names = ", ".join(data_set.name for data_set in DATA_SETS)
    parser.add_argument(
        "--require",
        metavar="SET",
        nargs="+",
        default=[],
        choices=[data_set.name for data_set in DATA_SETS],
        help=f"fail if one of these is missing ({names})",
    )
    add_json(parser)


def run_check(args: argparse.Namespace) -> None:
    """Check every known set, print a table, and fail if anything present is wrong."""
    if args.root is None:
        raise UsageError("data check: give ROOT, or set the variable SIMJAX_DATA")
    root = Path(args.root)
    if not root.is_dir():
        raise SimjaxError(f"{root}: no such folder")
    found = {data_set.name: check(root, data_set) for data_set in DATA_SETS}
    files = [finding for by_file in found.values() for finding in by_file.values()]
    if all(finding.status == "missing" for finding in files):
        raise SimjaxError(f"{root}: holds none of the known sets, such as en/stsb/dev.tsv")
    _print(root, found)
    if args.json is not None:
        from simjax.eval.report import write_json

        write_json(args.json, _figures(found))
    wrong = sum(finding.status == "wrong" for finding in files)
    if wrong:
        raise SimjaxError(f"{root}: {wrong} file{'s' if wrong > 1 else ''} not as expected")
    absent = [name for name in args.require if summary(found[name]) == "missing"]
    if absent:
        raise SimjaxError(f"{root}: {', '.join(absent)} missing")


def check(root: Path, data_set: DataSet) -> dict[str, Finding]:
    """What is found of each file of a set."""
    return {file.path: _check_file(root, file) for file in data_set.files}


def summary(found: dict[str, Finding]) -> Status:
    """Of a whole set: wrong if a file is, else missing if a file is."""
    states = {finding.status for finding in found.values()}
    if "wrong" in states:
        return "wrong"
    return "missing" if "missing" in states else "ok"


def _check_file(root: Path, file: File) -> Finding:
    path = find(root, file)
    if path is None:
        return Finding("missing")
    try:
        rows = count_rows(path, file)
    except SimjaxError as error:
        return Finding("wrong", str(error))
    if rows not in file.rows:
        expected = " or ".join(f"{count:,}" for count in file.rows)
        return Finding("wrong", f"{path}: {rows:,} rows, expected {expected}", rows)
    return Finding("ok", rows=rows)


def _figures(found: dict[str, dict[str, Finding]]) -> dict[str, object]:
    return {
        data_set.name: {
            "status": summary(found[data_set.name]),
            "source": data_set.source,
            "files": {
                file.path: {
                    "status": found[data_set.name][file.path].status,
                    "rows": found[data_set.name][file.path].rows,
                    "expected": list(file.rows),
                    "detail": found[data_set.name][file.path].detail,
                }
                for file in data_set.files
            },
        }
        for data_set in DATA_SETS
    }


def _print(root: Path, found: dict[str, dict[str, Finding]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("set", "state", "rows", "source", "used by", title=f"data sets of {root}")
    for data_set in DATA_SETS:
        findings = found[data_set.name]
        counts = [finding.rows for finding in findings.values() if finding.rows is not None]
        table.add_row(
            data_set.name,
            summary(findings),
            f"{sum(counts):,}" if counts else "",
            data_set.source,
            data_set.used_by,
        )
    console = Console()
    console.print(table)
    for data_set in DATA_SETS:
        for path, finding in found[data_set.name].items():
            if finding.status == "wrong":
                console.print(finding.detail, style="red", markup=False, soft_wrap=True)
            elif finding.status == "missing":
                console.print(f"{path}: missing", markup=False, soft_wrap=True)
