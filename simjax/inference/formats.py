"""Files of embeddings: NumPy, safetensors, Parquet. Row i belongs to text i.

* `.npy`: one float32 array [N, D].
* `.safetensors`: the same as tensor `embeddings`; the header's metadata says which model.
* `.parquet`: a column `embedding` of lists of D float32; the schema's metadata says which model.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float32

from simjax.errors import SimjaxError, UsageError

Format: TypeAlias = Literal["npy", "safetensors", "parquet"]

TENSOR = "embeddings"
COLUMN = "embedding"
ROW_GROUP = 1 << 16
"""Rows of a row group of a Parquet file."""
_MOST_ROWS = 10**18
_ALIGNMENT = 64


def format_of(path: Path) -> Format:
    """The format that a file's name says.

    Raises:
        UsageError: It says none.
    """
    for format_ in get_args(Format):
        if path.suffix == f".{format_}":
            return format_
    raise UsageError(f"{path}: the name must end in .npy, .safetensors or .parquet")


def head(format_: Format, rows: int, width: int, metadata: Mapping[str, str]) -> bytes:
    """What stands before the rows of a file; as long for any number of rows.

    Args:
        format_: Parquet files are not written in place, and get room for nothing.
        rows: Number of rows.
        width: Dimensions of a row.
        metadata: Kept by safetensors.
    """
    if format_ == "parquet":
        return b""
    if format_ == "npy":
        file = io.BytesIO()
        # NumPy leaves room for any number of rows.
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
        )
        return file.getvalue()
    text = _safetensors_header(rows, width, metadata)
    longest = len(_safetensors_header(_MOST_ROWS, width, metadata))
    size = -(-(8 + longest) // _ALIGNMENT) * _ALIGNMENT - 8
    return size.to_bytes(8, "little") + text.ljust(size)


def _safetensors_header(rows: int, width: int, metadata: Mapping[str, str]) -> bytes:
    tensor = {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, 4 * rows * width]}
    return json.dumps({"__metadata__": dict(metadata), TENSOR: tensor}).encode()


def write_parquet(
    path: Path, rows: Float32[np.ndarray, "N D"], metadata: Mapping[str, str]
) -> None:
    """Write a Parquet file, a row group at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    width = rows.shape[1]
    # Not lists of a fixed size: readers know those less well.
    schema = pa.schema(
        [pa.field(COLUMN, pa.list_(pa.field("element", pa.float32(), False)), False)]
    )
    schema = schema.with_metadata(dict(metadata) | {"width": str(width)})
    # Vectors do not compress.
    with parquet.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for start in range(0, len(rows), ROW_GROUP):
            part = np.ascontiguousarray(rows[start : start + ROW_GROUP], np.float32)
            offsets = pa.array(np.arange(len(part) + 1, dtype=np.int32) * width)
            values = pa.array(part.reshape(-1))
            lists = pa.ListArray.from_arrays(offsets, values, type=schema.field(COLUMN).type)
            writer.write_table(pa.Table.from_arrays([lists], schema=schema))


class EmbeddingFile:
    """Embeddings on disk, read in parts.

    Attributes:
        path: The file.
        rows: Number of rows.
        width: Dimensions of a row.
        metadata: What the file says about itself; a NumPy file says nothing.
    """

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            UsageError: The name does not show the format.
            SimjaxError: There is no such file, or it holds no embeddings.
        """
        self.path = path
        self.metadata: dict[str, str] = {}
        format_ = format_of(path)
        if not path.is_file():
            raise SimjaxError(f"{path}: no such file")
        try:
            self._source = _OPEN[format_](path, self.metadata)
        except (OSError, ValueError, KeyError) as error:
            raise SimjaxError(f"{path}: holds no embeddings ({error})") from error
        self.rows, self.width = self._source.shape
        if not self.rows or not self.width:
            raise SimjaxError(f"{path}: holds no embeddings (its shape is {self._source.shape})")

    def parts(self, rows: int) -> Iterator[Float32[np.ndarray, "n D"]]:
        """All rows in order, at most so many at a time.

        Raises:
            SimjaxError: A value is not finite, or the file is damaged.
        """
        done = 0
        try:
            for part in self._source.parts(rows):
                part = np.ascontiguousarray(part, np.float32)
                if not np.isfinite(part).all():
                    row = done + int(np.flatnonzero(~np.isfinite(part).all(axis=1))[0])
                    raise SimjaxError(f"{self.path}: row {row} is not finite")
                done += len(part)
                yield part
        except (OSError, ValueError) as error:
            raise SimjaxError(f"{self.path}: cannot be read after row {done} ({error})") from error


class _Array:
    def __init__(self, array: Any, shape: tuple[int, ...], kind: str) -> None:
        if len(shape) != 2 or kind[0].lower() not in "f":
            raise ValueError(
                f"an array of shape {list(shape)} of {kind}, not [rows, width] of float"
            )
        self._array, self.shape = array, shape

    def parts(self, rows: int) -> Iterator[np.ndarray]:
        for start in range(0, self.shape[0], rows):
            yield self._array[start : min(start + rows, self.shape[0])]


def load_array(path: Path) -> np.ndarray:
    """An array of a NumPy file, read as it is needed.

    Raises:
        OSError: There is no such file.
        ValueError: It holds no array.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except EOFError as error:
        raise ValueError(f"{path.name} is empty") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path.name} is an archive of arrays, not one array")
    return array


def _open_npy(path: Path, metadata: dict[str, str]) -> Any:
    array = load_array(path)
    return _Array(array, array.shape, str(array.dtype))


def _open_safetensors(path: Path, metadata: dict[str, str]) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="np")
        metadata.update(file.metadata() or {})
        found = file.get_slice(TENSOR)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    if found.get_dtype() == "BF16":
        raise ValueError("bfloat16 is not read; write float32 or float16")
    return _Array(found, tuple(found.get_shape()), found.get_dtype())


class _ParquetColumn:
    def __init__(self, path: Path, metadata: dict[str, str]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self._file = parquet.ParquetFile(path)
        schema = self._file.schema_arrow
        names = [name for name in (COLUMN, TENSOR) if name in schema.names]
        if not names:
            raise ValueError(f"no column {COLUMN}; found: {', '.join(schema.names)}")
        self._name = names[0]
        kind = schema.field(self._name).type
        lists = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
        if not lists or not pa.types.is_floating(kind.value_type):
            raise ValueError(f"column {self._name} is {kind}, not lists of float")
        for name, value in (schema.metadata or {}).items():
            metadata[name.decode()] = value.decode(errors="replace")
        first = next(self._file.iter_batches(1, columns=[self._name]), None)
        width = 0 if first is None else len(first.column(0)[0].as_py() or ())
        self.shape = (self._file.metadata.num_rows, width)

    def parts(self, rows: int) -> Iterator[np.ndarray]:
        for batch in self._file.iter_batches(rows, columns=[self._name]):
            lists = batch.column(0)
            values = lists.flatten()
            counts = lists.value_lengths().to_numpy(zero_copy_only=False)
            if lists.null_count or values.null_count or not np.all(counts == self.shape[1]):
                raise ValueError("an embedding is missing, or of another width")
            yield values.to_numpy(zero_copy_only=False).reshape(-1, self.shape[1])


_OPEN: dict[Format, Any] = {
    "npy": _open_npy,
    "safetensors": _open_safetensors,
    "parquet": _ParquetColumn,
}
