"""What the fields of a record say: texts, a class, a score."""

from __future__ import annotations

import math
from typing import Any

from simjax.errors import SimjaxError


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


def label(value: Any, where: str, name: str) -> str | None:
    """The class that a field names, None if it is empty.

    Raises:
        SimjaxError: the field is neither text nor number, or not Unicode.
    """
    if value is None:
        return None
    if isinstance(value, list | dict):
        raise SimjaxError(f"{where}: the label {name!r} is neither text nor number")
    text = value if isinstance(value, str | bytes) else str(value)
    return _unicode(text, where, name).strip() or None


def score(value: Any, where: str, name: str) -> float | None:
    """The number that a field holds or spells, None if it is empty.

    Raises:
        SimjaxError: it is no finite number.
    """
    if value is None or (isinstance(value, str | bytes) and not value.strip()):
        return None
    try:
        # A truth value is a number to Python, and a class to whoever wrote it.
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise SimjaxError(f"{where}: the score {name!r} is no finite number: {str(value)[:40]}")
    return number
