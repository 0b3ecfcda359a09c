"""Lines and tables of UTF-8 text, plain or gzip, with errors that name the file and the line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from simjax.errors import SimjaxError


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end) of a text file, `.gz` or plain.

    Only line feeds end a line, with or without a carriage return before them: sentences may
    contain Unicode's other separators.

    Raises:
        SimjaxError: The file is missing or unreadable, not gzip though named so, or not UTF-8.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                yield number, line.removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise SimjaxError(
            f"{path}:{number}: not valid UTF-8 ({error.reason} at byte {error.start} of the line);"
            " convert the file to UTF-8"
        ) from error
    except FileNotFoundError as error:
        raise SimjaxError(f"{path}: no such file") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SimjaxError(f"{path}:{number + 1}: damaged gzip file ({error})") from error
    except OSError as error:
        raise SimjaxError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_columns(
    path: Path, *columns: tuple[str, ...], optional: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, fields of the wanted columns) of a TSV file without quoting.

    The first line names the columns; blank lines are left out.

    Args:
        path: The file.
        columns: For each wanted column the names that it may have, the first that is there taken.
        optional: Names of columns that come after them, and the field of each where it is missing.

    Raises:
        SimjaxError: See `read_lines`; a column is missing, or a row has too few or many fields.
    """
    width = 0
    places: list[int] = []
    for number, line in read_lines(path):
        fields = line.split("\t")  # no quoting: quotation marks are text
        if number == 1:
            width = len(fields)
            for names in columns:
                name = next((name for name in names if name in fields), None)
                if name is None:
                    wanted = ", ".join(" or ".join(names) for names in columns)
                    raise SimjaxError(
                        f"{path}:1: no column {' or '.join(map(repr, names))}; the first line must "
                        f"name the tab-separated columns {wanted}"
                    )
                places.append(fields.index(name))
            for missing, name in enumerate(optional):
                places.append(fields.index(name) if name in fields else width + missing)
            continue
        if not line:
            continue
        if len(fields) != width:
            raise SimjaxError(
                f"{path}:{number}: {len(fields)} tab-separated fields, the header has {width}"
            )
        row = [*fields, *optional.values()]
        yield number, [row[place] for place in places]
