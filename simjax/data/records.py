"""Records of text, CSV, TSV and JSON Lines files, plain or gzip, with the line that each is on.

* text: one record per line, in a column named `text`.
* CSV: a header; fields may be quoted, and a quoted field may hold line ends. A field has at most
  `FIELD` characters.
* TSV: a header; a tab ends a field and nothing is quoted.
* JSON Lines: one object per line; the columns are its keys.

Files are UTF-8, with or without a byte-order mark.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeAlias

from simjax.data.table import column_index
from simjax.errors import SimjaxError

LineFormat: TypeAlias = Literal["text", "csv", "tsv", "jsonl"]

ENDINGS: dict[str, LineFormat] = {
    ".txt": "text",
    ".text": "text",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
"""Formats by file ending, `.gz` put aside."""


FIELD = 1 << 24
"""Most characters of a CSV field: as much of a file as an unclosed quote may swallow."""


def plain_or_gzip(path: Path) -> Path:
    """The file or, where there is none of that name, the one with `.gz` more or less."""
    plain = path.name.removesuffix(".gz")
    for name in (path.name, plain, f"{plain}.gz"):
        if path.with_name(name).is_file():
            return path.with_name(name)
    return path


class LineTable:
    """The records of one file: its columns first, then the fields of those that are wanted."""

    def __init__(self, path: Path, format_: LineFormat) -> None:
        """Open the file and read its columns.

        Raises:
            SimjaxError: the file cannot be read, or is empty.
        """
        self.path = path
        self.header = f"{path}:1"
        self._records = _READERS[format_](path)
        try:
            self._first = next(self._records)
        except StopIteration:
            raise SimjaxError(f"{path}: the file is empty") from None
        self.columns: tuple[str, ...]
        """Names of the columns; for JSON Lines the keys of the first object."""
        if format_ == "jsonl":
            self.columns = tuple(self._first[1])
        elif format_ == "text":
            self.columns = ("text",)
        else:
            self.columns = tuple(self._first[1])
            self._check_header()
        self._format = format_
        self.seen: set[str] = set()
        """Optional columns that a record read so far has."""

    def where(self, number: int) -> str:
        """File and line."""
        return f"{self.path}:{number}"

    def select(
        self, required: Sequence[str], optional: Sequence[str] = ()
    ) -> Iterator[tuple[int, list[Any]]]:
        """Line number and fields of each record, the required columns first.

        A blank line of a CSV or TSV file is given as empty fields. A JSON field is what the JSON
        says, None where an object lacks an optional key.

        Raises:
            SimjaxError: with file and line, for a column or key that is missing, a wrong number
                of fields, and whatever else is malformed.
        """
        wanted = [*required, *optional]
        if self._format == "text":
            for name in wanted:
                column_index(self, name)
            yield from chain([self._first], self._records)
        elif self._format == "jsonl":
            for line, record in chain([self._first], self._records):
                yield line, self._fields_of(line, record, required, optional)
        else:
            indices = [column_index(self, name) for name in wanted]
            self.seen.update(optional)
            width = len(self.columns)
            for line, fields in self._records:
                if not fields:
                    yield line, [""] * len(wanted)
                    continue
                if len(fields) != width:
                    raise SimjaxError(
                        f"{self.path}:{line}: {len(fields)} fields where the header has {width}"
                    )
                yield line, [fields[index] for index in indices]

    def _fields_of(
        self, line: int, record: dict[str, Any], required: Sequence[str], optional: Sequence[str]
    ) -> list[Any]:
        for name in required:
            if name not in record:
                raise SimjaxError(
                    f"{self.path}:{line}: no key {name!r}; found: {', '.join(record) or 'none'}"
                )
        self.seen.update(name for name in optional if name in record)
        return [record.get(name) for name in (*required, *optional)]

    def _check_header(self) -> None:
        if not any(name.strip() for name in self.columns):
            raise SimjaxError(f"{self.path}:1: the first line is blank; it must name the columns")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines with their line ends, decoded one by one so that faults have a line."""
    number = 0
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            for raw in file:
                number += 1
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                try:
                    yield number, raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise SimjaxError(
                        f"{path}:{number}: not UTF-8: byte 0x{raw[error.start]:02x} at byte "
                        f"{error.start + 1} of the line; convert the file to UTF-8"
                    ) from None
    except EOFError:
        raise SimjaxError(
            f"{path}:{number + 1}: the gzip file ends early: it was cut off; fetch it again"
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise SimjaxError(f"{path}:{number + 1}: damaged or no gzip file: {error}") from None
    except OSError as error:
        raise SimjaxError(f"{path}: {error.strerror or error}") from error


def _text(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in _lines(path):
        yield number, [line]


def _tsv(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in _lines(path):
        line = line.rstrip("\r\n")
        yield number, line.split("\t") if line else []


def _csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    return csv_rows(path, (line for _, line in _lines(path)))


def csv_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """The line that each record of a CSV file begins on, and its fields.

    Args:
        path: The file, for messages.
        lines: Its lines with their ends, which may stand inside quotes.

    Raises:
        SimjaxError: with file and line, for what is malformed and for a field that is too long.
    """
    # Python's limit is one for the whole process: a higher one is somebody's who needs it.
    most = max(FIELD, csv.field_size_limit())
    csv.field_size_limit(most)
    reader = csv.reader(lines, strict=True)
    while True:
        begin = reader.line_num + 1
        try:
            yield begin, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            end = reader.line_num
            read_to = f" (read as far as line {end})" if end > begin else ""
            if "field limit" in str(error):
                raise SimjaxError(
                    f"{path}:{begin}: a field of more than {most:,} characters{read_to}; close its "
                    "quote if it is unclosed, or give texts of that length as JSON Lines"
                ) from None
            raise SimjaxError(
                f"{path}:{begin}: malformed CSV: {error}{read_to}; is a quote unclosed? In a "
                'quoted field a quote is written ""'
            ) from None


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise SimjaxError(
                f"{path}:{number}: malformed JSON: {error.msg} at character {error.pos + 1}"
            ) from None
        except RecursionError:
            raise SimjaxError(f"{path}:{number}: malformed JSON: nested too deeply") from None
        except ValueError:  # Python reads at most 4,300 digits
            raise SimjaxError(f"{path}:{number}: malformed JSON: a number is too long") from None
        if not isinstance(record, dict):
            raise SimjaxError(
                f"{path}:{number}: a JSON object is wanted, this is {_json_kind(record)}"
            )
        yield number, record


def _json_kind(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


_READERS: dict[LineFormat, Any] = {"text": _text, "csv": _csv, "tsv": _tsv, "jsonl": _jsonl}
