"""Files of one text per line."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from simjax.errors import SimjaxError


def stream_texts(name: str) -> Iterator[str]:
    """The lines of a file, plain or .gz, or of standard input for `-`; empty lines included.

    Raises:
        SimjaxError: The file is missing, or not UTF-8 (with its line).
    """
    if name == "-":
        yield from _standard_input(sys.stdin.buffer)
        return
    from simjax.eval.lines import read_lines

    for _, line in read_lines(Path(name)):
        yield line


def read_texts(name: str) -> list[str]:
    """As `stream_texts`, all at once.

    Raises:
        SimjaxError: As there, and if there is nothing but white space.
    """
    texts = list(stream_texts(name))
    if not any(text.strip() for text in texts):
        raise SimjaxError(f"{shown(name)}: holds no text; expected one on each line")
    return texts


def _standard_input(lines: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            yield (
                line.decode("utf-8-sig" if number == 1 else "utf-8")
                .removesuffix("\n")
                .removesuffix("\r")
            )
        except UnicodeDecodeError as error:
            raise SimjaxError(f"standard input:{number}: not valid UTF-8") from error


def shown(name: str) -> str:
    """What errors call the input."""
    return "standard input" if name == "-" else name
