"""Records of Arrow tables: of Parquet files, and of Hugging Face data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from simjax.data.table import column_index
from simjax.errors import SimjaxError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 8192
"""Rows that are held as Python objects at a time."""

Batches: TypeAlias = "Callable[[list[str]], Iterable[pa.RecordBatch | pa.Table]]"
"""The wanted columns of all rows, some rows at a time."""


class ArrowTable:
    """Records whose columns a schema declares. Rows are counted from 1."""

    def __init__(self, name: str, columns: Sequence[str], batches: Batches) -> None:
        """Take what to read from.

        Args:
            name: of the file or data set, for messages.
            columns: names of its columns.
            batches: reads some of them; may raise Arrow's exceptions and `OSError`.
        """
        self.header = name
        self.columns = tuple(columns)
        self.seen: set[str] = set()
        self._batches = batches

    def where(self, number: int) -> str:
        """File or data set, and row."""
        return f"{self.header}: row {number}"

    def select(
        self, required: Sequence[str], optional: Sequence[str] = ()
    ) -> Iterator[tuple[int, list[Any]]]:
        """Number and fields of each row; see `Table.select`."""
        import pyarrow as pa

        wanted = [*required, *optional]
        for name in wanted:
            column_index(self, name)
        self.seen.update(optional)
        row = 0
        try:
            for batch in self._batches(wanted):
                fields = [_values(batch.column(name)) for name in wanted]
                for values in zip(*fields, strict=True):
                    row += 1
                    yield row, list(values)
        except (pa.ArrowException, OSError) as error:
            raise SimjaxError(
                f"{self.header}: damaged somewhere after row {row}: {first_line(error)}; fetch it "
                "again"
            ) from error


def open_parquet(path: Path) -> ArrowTable:
    """A Parquet file, of which one row group is read at a time.

    Raises:
        SimjaxError: it cannot be read, or is no Parquet file.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        columns = file.schema_arrow.names
    except (pa.ArrowException, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else None
        if reason is None:
            reason = f"not a Parquet file, or a damaged one: {first_line(error)}"
        raise SimjaxError(f"{path}: {reason}") from error
    return ArrowTable(
        str(path), columns, lambda wanted: file.iter_batches(batch_size=ROWS, columns=wanted)
    )


def first_line(error: BaseException) -> str:
    """What an exception says, without the lines that follow its first."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """A column as Python values; text that is no UTF-8 stays bytes, for which a row is blamed."""
    import pyarrow as pa

    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        nested = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        return column.cast(pa.list_(pa.binary()) if nested else pa.binary()).to_pylist()
