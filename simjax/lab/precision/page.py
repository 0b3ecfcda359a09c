"""A page of HTML that needs no other file: headings, paragraphs, tables, pictures."""

from __future__ import annotations

import base64
import csv
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simjax.errors import SimjaxError
from simjax.lab.precision.plots import Plot

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13px }
th, td { border-bottom: 1px solid #ddd; padding: .2rem .6rem; text-align: right }
th:first-child, td:first-child { text-align: left }
caption, figcaption { text-align: left; color: #333; margin: .5rem 0 }
figure { margin: 1.5rem 0 } img { max-width: 100% } code { background: #f3f3f3; padding: 0 .2rem }
"""


class Page:
    """Collects parts, in order."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts: list[str] = [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str, level: int = 2) -> None:
        """A heading."""
        self._parts.append(f"<h{level}>{html.escape(text)}</h{level}>")

    def text(self, *paragraphs: str) -> None:
        """Paragraphs."""
        self._parts += [f"<p>{html.escape(one)}</p>" for one in paragraphs]

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
        self._parts.append(
            f"<table><caption>{html.escape(caption)}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )

    def plot(self, plot: Plot) -> None:
        """A picture inside the page, with its caption."""
        data = base64.b64encode(plot.png).decode()
        self._parts.append(
            f'<figure><img alt="{html.escape(plot.name)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{html.escape(plot.caption)}</figcaption></figure>"
        )

    def __str__(self) -> str:
        parts = "\n".join(self._parts)
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>{html.escape(self._title)}</title><style>{_STYLE}</style></head>\n"
            f"<body>\n{parts}\n</body></html>\n"
        )


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows with the same keys as CSV; no file where there are no rows.

    Raises:
        SimjaxError: The file cannot be written.
    """
    if not rows:
        return
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise SimjaxError(f"{path}: cannot be written ({error.strerror})") from error
