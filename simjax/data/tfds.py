"""Records of a data set that TensorFlow Datasets has prepared; TensorFlow itself is not needed.

Only prepared folders are read: nothing is fetched, and no code of a data set is run. TFDS imports
the classes that `features.json` names; none but its own are allowed there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from simjax.data.arrow import first_line
from simjax.data.table import column_index
from simjax.errors import SimjaxError

INFO = "dataset_info.json"
"""The file that tells a prepared folder."""

ROWS = 1000
"""Examples that are decoded at a time."""

PREPARE = (
    "prepare it with tfds.builder(NAME, file_format='array_record').download_and_prepare(), "
    "and give its folder, or its name with TFDS_DATA_DIR naming the folder of data sets"
)


class TfdsTable:
    """The examples of a split, in the order in which they are stored, counted from 1."""

    def __init__(self, name: str, root: Path | None, split: str) -> None:
        """Open the split.

        Args:
            name: a prepared folder, or a data set's name as in `glue/mrpc` or
                `imdb_reviews/plain_text:1.0.0`; without a version the newest that is prepared.
            root: the folder that `name` lies in; None stands for the current one and then
                TFDS's own.
            split: as TFDS writes it: `train`, `train[:10%]`, `train+test`.

        Raises:
            SimjaxError: it is not prepared, cannot be read at random, or has no such split.
        """
        import tensorflow_datasets as tfds

        self.folder = _prepared(name, root)
        _check_classes(self.folder / "features.json")
        self.header = f"{self.folder} ({split})"
        self.seen: set[str] = set()
        try:
            self._builder = tfds.builder_from_directory(self.folder)
            self._split = self._builder.info.splits[split]
            self._features = dict(self._builder.info.features)
        except Exception as error:
            # TFDS raises whatever its parsers do.
            raise SimjaxError(f"{self.header}: {first_line(error)}") from error
        self._split_name = split
        self.columns: tuple[str, ...] = tuple(self._features)

    @property
    def files(self) -> list[Path]:
        """What the split is stored in, and what says how it is decoded."""
        shards = [Path(path) for path in self._split.filepaths]
        return [
            *shards,
            *sorted(self.folder.glob("features.json")),
            *sorted(self.folder.glob("*.labels.txt")),
        ]

    def where(self, number: int) -> str:
        """Folder, split and example."""
        return f"{self.header}: example {number}"

    def select(
        self, required: Sequence[str], optional: Sequence[str] = ()
    ) -> Iterator[tuple[int, list[Any]]]:
        """Number and fields of each example; see `Table.select`.

        Of a class its name is given, None where it is -1, as in splits without labels.
        """
        import tensorflow_datasets as tfds

        wanted = [*required, *optional]
        for name in wanted:
            column_index(self, name)
        self.seen.update(optional)
        # Other features may be images, which take long, or TensorFlow, to decode.
        nested = (tfds.features.FeaturesDict, tfds.features.Sequence)
        skip = {
            name: tfds.decode.SkipDecoding()
            for name, feature in self._features.items()
            if name not in wanted and not isinstance(feature, nested)
        }
        if self._split.num_examples == 0:
            raise SimjaxError(f"{self.header}: holds no examples")
        done = 0
        try:
            source = self._builder.as_data_source(split=self._split_name, decoders=skip)
            for begin in range(0, len(source), ROWS):
                places = range(begin, min(begin + ROWS, len(source)))
                for record in source.__getitems__(places):
                    if all(value is None for value in record.values()):
                        # What array_record makes of places that a file does not reach.
                        raise SimjaxError(
                            f"{self.where(done + 1)}: is empty, so a file is damaged; prepare the "
                            "data set again"
                        )
                    done += 1
                    fields = [_plain(self._features[name], record[name]) for name in wanted]
                    yield done, fields
        except SimjaxError:
            raise
        except NotImplementedError as error:
            raise SimjaxError(
                f"{self.header}: stored as {self._builder.info.file_format.value}, which cannot be "
                f"read at random: {PREPARE}"
            ) from error
        except Exception as error:
            # array_record and protobuf have many exceptions and no common one.
            raise SimjaxError(
                f"{self.header}: cannot be read after example {done}: {first_line(error)}"
            ) from error


def _prepared(name: str, root: Path | None) -> Path:
    """The folder of a prepared data set.

    Raises:
        SimjaxError: there is none, or one of several has to be chosen.
    """
    relative = Path(name.replace(":", "/")).expanduser()
    own = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    places = [(root or Path()) / relative, own / relative]
    for place in places:
        found = [place] if (place / INFO).is_file() else []
        found = found or [path.parent for path in sorted(place.glob(f"*/{INFO}"))]
        found = found or [path.parent for path in sorted(place.glob(f"*/*/{INFO}"))]
        if len({path.parent for path in found}) > 1:
            configs = ", ".join(sorted({path.parent.name for path in found}))
            raise SimjaxError(f"{place}: holds several data sets ({configs}); name one of them")
        if found:
            return max(found, key=_version)
    raise SimjaxError(
        f"{places[0]}: no data set that TFDS has prepared (there is no {INFO}), and none in {own}: "
        f"{PREPARE}"
    )


def _check_classes(path: Path) -> None:
    """Refuses features whose classes are not TFDS's own.

    Raises:
        SimjaxError: There is such a one, or the file cannot be read.
    """
    if not path.exists():
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SimjaxError(f"{path}: cannot be read ({first_line(error)})") from error
    left = [content]
    while left:
        part = left.pop()
        left += part.values() if isinstance(part, dict) else part if isinstance(part, list) else []
        name = part.get("pythonClassName") if isinstance(part, dict) else None
        if name is not None and not str(name).startswith("tensorflow_datasets.core.features."):
            raise SimjaxError(f"{path}: {name} is no feature of TFDS's own, and is not imported")


def _version(folder: Path) -> tuple[int, ...]:
    parts = folder.name.split(".")
    return tuple(int(part) if part.isdecimal() else -1 for part in parts)


def _plain(feature: Any, value: Any) -> Any:
    """A field as text, number or list, whatever NumPy type it comes as."""
    import numpy as np
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.ClassLabel):
        return None if value < 0 else feature.int2str(int(value))
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value
