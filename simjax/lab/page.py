"""A page of HTML that needs no other file: headings, paragraphs, tables, pictures."""

from __future__ import annotations

import base64
import csv
import html
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simjax.errors import SimjaxError
from simjax.lab.plots import Plot

REPORT = "report.html"
LONG = 12
"""Rows beyond which a table is folded."""
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13px }
th, td { border-bottom: 1px solid #ddd; padding: .2rem .6rem; text-align: right }
th:first-child, td:first-child { text-align: left }
caption, figcaption { text-align: left; color: #333; margin: .5rem 0 }
figure { margin: 1.5rem 0 } img { max-width: 100% } code { background: #f3f3f3; padding: 0 .2rem }
.warning { border: 2px solid #b00; padding: .5rem .8rem } .level3 { margin-left: 1.5rem }
summary { cursor: pointer; margin: .5rem 0 }
"""


class Page:
    """Collects parts, in order."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._headings: list[tuple[int, str, str]] = []
        self._parts: list[str] = []

    def heading(self, text: str, level: int = 2) -> None:
        """A heading."""
        place = f"part{len(self._headings)}"
        self._headings.append((level, place, text))
        self._parts.append(f'<h{level} id="{place}">{html.escape(text)}</h{level}>')

    def text(self, *paragraphs: str) -> None:
        """Paragraphs."""
        self._parts += [f"<p>{html.escape(one)}</p>" for one in paragraphs]

    def warning(self, text: str) -> None:
        """A paragraph in a box."""
        self._parts.append(f'<p class="warning"><b>{html.escape(text)}</b></p>')

    def answer(self, question: str, answer: str) -> None:
        """A question in bold and its answer."""
        self._parts.append(f"<p><b>{html.escape(question)}</b> {html.escape(answer)}</p>")

    def bullets(self, lines: Sequence[str]) -> None:
        """A list."""
        items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
        self._parts.append(f"<ul>{items}</ul>")

    def commands(self, lines: Sequence[str]) -> None:
        """Command lines."""
        self._parts.append(f"<pre><code>{html.escape(chr(10).join(lines))}</code></pre>")

    def table(self, rows: Sequence[Mapping[str, Any]], caption: str) -> None:
        """Rows with the same keys, which become the headings."""
        if not rows:
            self.text(f"{caption} Nothing was measured.")
            return
        head = "".join(f"<th>{html.escape(str(name))}</th>" for name in rows[0])
        body = "".join(
            "<tr>"
            + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row.values())
            + "</tr>"
            for row in rows
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        title = html.escape(caption)
        if len(rows) > LONG:
            table = f"<details><summary>{title} ({len(rows)} rows)</summary>{table}</details>"
        else:
            table = f"<p>{title}</p>{table}"
        self._parts.append(table)

    def plot(self, plot: Plot) -> None:
        """A picture inside the page, with its caption."""
        data = base64.b64encode(plot.png).decode()
        self._parts.append(
            f'<figure><img alt="{html.escape(plot.name)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{html.escape(plot.caption)}</figcaption></figure>"
        )

    def __str__(self) -> str:
        parts = "\n".join(self._parts)
        contents = "".join(
            f'<li class="level{level}"><a href="#{place}">{html.escape(text)}</a></li>'
            for level, place, text in self._headings
        )
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>{html.escape(self._title)}</title><style>{_STYLE}</style></head>\n"
            f"<body>\n<h1>{html.escape(self._title)}</h1>\n<nav><ul>{contents}</ul></nav>\n{parts}\n"
            "</body></html>\n"
        )


def csv_text(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as CSV; their columns are those that any row has."""
    columns = dict.fromkeys(name for row in rows for name in row)
    held = io.StringIO(newline="")
    writer = csv.DictWriter(held, list(columns))
    writer.writeheader()
    writer.writerows(rows)
    return held.getvalue().encode()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file: whole or not at all.

    Raises:
        SimjaxError: The file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        raise SimjaxError(f"{path}: cannot be written ({error.strerror})") from error


def write_report(
    folder: Path,
    page: Page,
    plots: Sequence[Plot],
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Path:
    """Write a page, and its plots and tables beside it, as PNG and CSV.

    Args:
        folder: Where to.
        page: With all that it shall show.
        plots: Each a file of its name.
        tables: Rows by name; where there are none, there is no file.

    Returns:
        The page's path.

    Raises:
        SimjaxError: A file cannot be written.
    """
    for plot in plots:
        write_whole(folder / f"{plot.name}.png", plot.png)
    for name, rows in tables.items():
        if rows:
            write_whole(folder / f"{name}.csv", csv_text(rows))
    path = folder / REPORT
    write_whole(path, str(page).encode())
    return path
