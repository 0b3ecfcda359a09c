"""Held-out texts: how well does a model foresee a text from its own latents?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simjax.data.records import plain_or_gzip
from simjax.errors import SimjaxError
from simjax.eval.lines import read_lines

_COLUMNS = ("sentence", "sentence1", "sentence2")


@dataclass(frozen=True)
class TextSet:
    """Texts that are written again, each once."""

    texts: list[str]

    @property
    def behind(self) -> list[tuple[str, str]]:
        """Each text behind the one that it is predicted from: itself."""
        return [(text, text) for text in self.texts]


def read_text_set(path: Path) -> TextSet:
    """Read a TSV file's columns `sentence`, `sentence1` and `sentence2`, or a file of lines.

    A file whose name ends in `.tsv` has a header and tabs, without quoting; others have one text on
    each line. `.gz` or plain; empty texts are left out.

    Raises:
        SimjaxError: With file and line, for a wrong number of fields; or there is no such column,
            or no text.
    """
    path = plain_or_gzip(path)
    if path.name.removesuffix(".gz").endswith(".tsv"):
        found = _read_table(path)
    else:
        found = [line for _, line in read_lines(path)]
    texts = list(dict.fromkeys(text.strip() for text in found if text.strip()))
    if not texts:
        raise SimjaxError(f"{path}: holds no text")
    return TextSet(texts)


def _read_table(path: Path) -> list[str]:
    found: list[str] = []
    places: list[int] = []
    width = 0
    for number, line in read_lines(path):
        fields = line.split("\t")
        if number == 1:
            width = len(fields)
            places = [fields.index(name) for name in _COLUMNS if name in fields]
            if not places:
                raise SimjaxError(
                    f"{path}:1: no column {' or '.join(map(repr, _COLUMNS))}; the first line must "
                    "name the tab-separated columns"
                )
        elif line and len(fields) != width:
            raise SimjaxError(
                f"{path}:{number}: {len(fields)} tab-separated fields, the header has {width}"
            )
        elif line:
            found += [fields[place] for place in places]
    return found
