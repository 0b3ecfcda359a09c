"""Data sets of the Hugging Face hub, or saved by its library `datasets` (the extra `hub`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simjax.data.arrow import ROWS, ArrowTable, first_line
from simjax.errors import SimjaxError

if TYPE_CHECKING:
    import pyarrow as pa

_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


class HubTable(ArrowTable):
    """The rows of a split. Of a class its name is given, None where it is -1."""

    def __init__(self, name: str, root: Path | None, subset: str | None, split: str | None) -> None:
        """Open the split; a data set of the hub is fetched unless its library has done so before.

        Args:
            name: a folder that `save_to_disk` wrote, else an id as in `sentence-transformers/stsb`.
            root: the folder that a folder lies in, None for the current one.
            subset: the configuration of a data set that has several.
            split: as the library writes it; None takes `train`, or a folder without splits.

        Raises:
            SimjaxError: the library is not installed, or there is no such data set or split.
        """
        try:
            import datasets
        except ImportError as error:
            raise SimjaxError(
                f"{name}: data.source.format hub needs the library datasets, which cannot be "
                f"imported ({first_line(error)}): pip install 'simjax[hub]'"
            ) from error
        folder = (root or Path()) / Path(name).expanduser()
        if folder.is_dir():
            found, header = _saved(folder, subset, split)
        else:
            found, header = _of_the_hub(name, folder, subset, split)
        self._found = found
        self._classes = {
            column: feature.names
            for column, feature in found.features.items()
            if isinstance(feature, datasets.ClassLabel)
        }
        super().__init__(header, found.column_names, self._read)

    @property
    def files(self) -> list[Path]:
        """What the split is stored in, and perhaps others of its data set."""
        return [Path(file["filename"]) for file in self._found.cache_files]

    def _read(self, wanted: list[str]) -> Iterator[pa.Table]:
        import pyarrow as pa

        rows = self._found.select_columns(wanted).with_format("arrow")
        for table in rows.iter(ROWS):
            for column in self._classes.keys() & set(wanted):
                names = self._classes[column]
                values = [
                    None if number is None or number < 0 else names[number]
                    for number in table[column].to_pylist()
                ]
                place = table.column_names.index(column)
                table = table.set_column(place, column, pa.array(values, pa.string()))
            yield table


def _saved(folder: Path, subset: str | None, split: str | None) -> tuple[Any, str]:
    """A data set in a folder, and its name in messages."""
    import datasets

    if subset is not None:
        raise SimjaxError(f"{folder}: a saved data set has no subset; leave out data.source.subset")
    try:
        found = datasets.load_from_disk(str(folder), keep_in_memory=False)
    except Exception as error:
        # Its parsers raise whatever they do.
        raise SimjaxError(
            f"{folder}: not a data set that save_to_disk wrote: {first_line(error)}; files in a "
            "folder are read by a pattern such as *.parquet"
        ) from error
    if not isinstance(found, datasets.DatasetDict):
        if split is not None:
            raise SimjaxError(f"{folder}: has no splits; leave out data.source.split")
        return found, str(folder)
    chosen = split or "train"
    if chosen not in found:
        raise SimjaxError(f"{folder}: no split {chosen!r}; it has {', '.join(found)}")
    return found[chosen], f"{folder} ({chosen})"


def _of_the_hub(name: str, folder: Path, subset: str | None, split: str | None) -> tuple[Any, str]:
    """A data set by its id, and its name in messages."""
    import datasets
    from huggingface_hub import constants

    if Path(name).exists():
        raise SimjaxError(
            f"{name}: an id of the hub, but also a folder here, which the library datasets would "
            f"take instead; rename one, or give the folder's whole path"
        )
    if not _ID.fullmatch(name):
        raise SimjaxError(f"{folder}: no such folder, and no id of a data set on the hub")
    chosen = split or "train"
    header = f"{name} ({subset + ', ' if subset else ''}{chosen})"
    try:
        found = datasets.load_dataset(name, subset, split=chosen, keep_in_memory=False)
    except Exception as error:
        if constants.HF_HUB_OFFLINE:
            raise SimjaxError(
                f"{header}: not in the cache of the library datasets, and HF_HUB_OFFLINE forbids "
                f"to fetch it ({first_line(error)}); there is no folder {folder} either"
            ) from error
        raise SimjaxError(f"{header}: {first_line(error)}") from error
    return found, header
