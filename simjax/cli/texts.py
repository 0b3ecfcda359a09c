"""Files of one text per line."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from simjax.errors import SimjaxError


def read_texts(name: str) -> list[str]:
    """The lines of a file, plain or .gz, or of standard input for `-`; empty lines included.

    Raises:
        SimjaxError: The file is missing, not UTF-8 (with its line), or holds nothing but white
            space.
    """
    if name == "-":
        texts = list(_standard_input(sys.stdin.buffer))
    else:
        from simjax.eval.lines import read_lines

        texts = [line for _, line in read_lines(Path(name))]
    if not any(text.strip() for text in texts):
        raise SimjaxError(f"{_shown(name)}: holds no text; expected one on each line")
    return texts


def _standard_input(lines: Iterable[bytes]) -> Iterable[str]:
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise SimjaxError(f"standard input:{number}: not valid UTF-8") from error


def _shown(name: str) -> str:
    return "standard input" if name == "-" else name
