"""What every kind of data set is read as: a table whose records come one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from simjax.errors import SimjaxError


class Table(Protocol):
    """The records of a file, or of a split of a data set."""

    columns: tuple[str, ...]
    """Names of the columns."""
    header: str
    """Where the columns are declared, for messages: `a.csv:1`."""
    seen: set[str]
    """Optional columns that a record read so far has."""

    def where(self, number: int) -> str:
        """Where a record is, for messages: `a.csv:7`, `a.parquet: row 6`."""

    def select(
        self, required: Sequence[str], optional: Sequence[str] = ()
    ) -> Iterator[tuple[int, list[Any]]]:
        """Number and fields of each record, the required columns first.

        A text is a `str`, or `bytes` that have yet to be decoded; None stands for nothing.

        Raises:
            SimjaxError: with the place, for a column that is missing and whatever is malformed.
        """


def column_index(table: Table, name: str) -> int:
    """The place of a column among a table's.

    Raises:
        SimjaxError: there is none of that name, or several.
    """
    if name not in table.columns:
        found = ", ".join(table.columns) or "none"
        raise SimjaxError(f"{table.header}: no column {name!r}; found: {found}")
    if table.columns.count(name) > 1:
        raise SimjaxError(f"{table.header}: there are several columns named {name!r}")
    return table.columns.index(name)
