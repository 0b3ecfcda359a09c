"""What the fields of a record say: texts, a class, a score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from simjax.errors import SimjaxError

LARGEST = 3.4028234663852886e38
"""Of float32, in which scores are kept."""


def texts(value: Any, where: str, name: str, *, several: bool) -> tuple[str, ...]:
    """The texts of a field, stripped of white space at both ends, without the empty ones.

    Args:
        value: a text, None, or where `several` may be a list of texts.
        where: the place of the record.
        name: the column.
        several: whether a list of texts is welcome.

    Raises:
        SimjaxError: the field holds anything else, or what is not Unicode.
    """
    parts: list[Any]
    if isinstance(value, str | bytes):
        parts = [value]
    elif value is None:
        return ()
    elif isinstance(value, list) and several and all(isinstance(x, str | bytes) for x in value):
        parts = value
    else:
        wanted = "a string or a list of strings" if several else "a string"
        raise SimjaxError(f"{where}: {name!r} is not {wanted}: {str(value)[:40]}")
    decoded = (_unicode(part, where, name) for part in parts)
    return tuple(text for text in (part.strip() for part in decoded) if text)


def _unicode(text: str | bytes, where: str, name: str) -> str:
    if isinstance(text, bytes):
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise SimjaxError(
                f"{where}: {name!r} is not UTF-8: byte 0x{text[error.start]:02x} at byte "
                f"{error.start + 1}"
            ) from None
    if not text.isascii():
        # JSON may spell half of a surrogate pair, which no tokenizer takes.
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise SimjaxError(
                f"{where}: {name!r} is not Unicode text: lone surrogate at character "
                f"{error.start + 1}"
            ) from None
    return text


def label(value: Any, where: str, name: str, classes: Sequence[str] = ()) -> str | None:
    """The class that a field names, None if it is empty.

    Args:
        value: text or number.
        where: the place of the record.
        name: the column.
        classes: those that there are; empty for any.

    Raises:
        SimjaxError: the field is neither text nor number, not Unicode, or none of the classes.
    """
    if value is None:
        return None
    if isinstance(value, list | dict):
        raise SimjaxError(f"{where}: the label {name!r} is neither text nor number")
    text = value if isinstance(value, str | bytes) else str(value)
    found = _unicode(text, where, name).strip() or None
    if classes and found is not None and found not in classes:
        raise SimjaxError(
            f"{where}: the label {name!r} is {found[:40]!r}, which is none of data.source.classes "
            f"({', '.join(classes)})"
        )
    return found


def score(
    value: Any, where: str, name: str, bounds: tuple[float, float] | None = None
) -> float | None:
    """The number that a field holds or spells, None if it is empty.

    Args:
        value: number or text.
        where: the place of the record.
        name: the column.
        bounds: the least and the largest that it may be; None for any.

    Raises:
        SimjaxError: it is no finite number, in float32 as well, or out of bounds.
    """
    if value is None or (isinstance(value, str | bytes) and not value.strip()):
        return None
    try:
        # A truth value is a number to Python, and a class to whoever wrote it.
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):  # the last of hundreds of digits
        number = math.nan
    if not abs(number) <= LARGEST:
        raise SimjaxError(f"{where}: the score {name!r} is no finite number: {str(value)[:40]}")
    if bounds is not None and not bounds[0] <= number <= bounds[1]:
        raise SimjaxError(
            f"{where}: the score {name!r} is {number:g}, out of data.source.score_range, which is "
            f"{bounds[0]:g} to {bounds[1]:g}"
        )
    return number
