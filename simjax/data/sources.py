"""Examples from files or from the built-in corpus.

The columns are those that `Source` names, or those with usual names (`columns`). JSON Lines have
the columns that are keys of the first object; later objects may lack those of hard negatives and
labels. Texts are stripped of white space at both ends. An example whose anchor is empty, or all of
whose positives are, is skipped and counted; an empty negative is left out.
"""

from __future__ import annotations

import difflib
import glob
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, cast

from simjax import remote
from simjax.data import builtin, fields
from simjax.data.arrow import open_parquet
from simjax.data.columns import Columns, choose_columns
from simjax.data.hub import HubTable
from simjax.data.records import ENDINGS, LineFormat, LineTable, plain_or_gzip
from simjax.data.table import Table
from simjax.data.tfds import TfdsTable
from simjax.errors import SimjaxError, UsageError

LIBRARIES = ("tfds", "hub")
"""Formats whose data sets have splits and are kept by a library."""

FileFormat: TypeAlias = LineFormat | Literal["parquet"]
Format: TypeAlias = Literal[
    "auto", "text", "csv", "tsv", "jsonl", "parquet", "tfds", "hub", "builtin"
]


@dataclass(frozen=True)
class Source:
    """What to read, and which of its columns mean what."""

    format: Format = "auto"
    """`auto` goes by the file's ending. `tfds`: prepared by TensorFlow Datasets. `hub`: of the
    Hugging Face hub, or saved by its library. `builtin`: the corpus that needs no file."""
    path: str | None = None
    """A file or a glob, relative to `data.root`; text files may be plain or .gz, whichever of the
    two is named. For `tfds` the folder of a prepared data set, or its name below `data.root` or
    TFDS_DATA_DIR; for `hub` a folder that `save_to_disk` wrote, else an id; for `builtin`
    `sentences` or `pairs`. A file or pattern may be a URL that fsspec reaches (gs://, s3://), with
    its library installed: it is copied into the cache, again when it has changed."""
    subset: str | None = None
    """Configuration of a data set of the hub that has several."""
    split: str | None = None
    """Of a data set of `tfds` or `hub`, slices too: `train[:10%]`; by default `train`."""
    anchor: str | None = None
    """Column of the anchor; by default the columns are found by their usual names."""
    positives: tuple[str, ...] = ()
    """Columns of positives. A list of strings, as JSON and Parquet have them, gives several."""
    negatives: tuple[str, ...] = ()
    """Columns of hard negatives. A list of strings gives several."""
    label: str | None = None
    """Column of the example's class; of `builtin` pairs `module`, which their text is from."""
    classes: tuple[str, ...] = ()
    """The classes that there are, in the order of their numbers; any other label is an error.
    Without them classes are numbered as they appear, and are those of this source alone: sources
    of a mixture share the classes that they name here."""
    score: str | None = None
    """Column of a number that says how alike anchor and positive are; the objectives `cosine`,
    `cosent` and `angle` learn it."""
    score_range: tuple[float, float] | None = None
    """The least and the largest score; any other is an error."""
    label_above: float | None = None
    """Makes classes of the scores: `1` above this, else `0`. They count as named in `classes`."""
    anchor_prefix: str = ""
    """Prompt or instruction that is put before every anchor as it stands, as in `query: `. It
    decides tokens and not which texts count as equal."""
    document_prefix: str = ""
    """The same for positives and hard negatives."""
    weight: float | None = None
    """Share of the mixture that `data.sources` makes, in relation to the others' weights; where no
    source has one, sources count by their sizes."""

    def __post_init__(self) -> None:
        if self.weight is not None and not 0 < self.weight < math.inf:
            raise UsageError(f"a source's weight is {self.weight}: give a number above 0")
        self._check_columns()
        for key, formats in {"split": LIBRARIES, "subset": ("hub",)}.items():
            value = getattr(self, key)
            if value is not None and self.format not in formats:
                raise UsageError(
                    f"a source's {key} is {value!r} and its format {self.format}: only those of "
                    f"{' and '.join(formats)} have one; leave it out"
                )

    @property
    def named_classes(self) -> tuple[str, ...]:
        """The classes that the recipe names, of a column or of scores."""
        return self.classes if self.label_above is None else ("0", "1")

    def _check_columns(self) -> None:
        if self.label_above is not None and self.label is not None:
            raise UsageError(
                "a source has label and label_above: classes are of a column or of scores; leave "
                "one of them out"
            )
        for key, column, given in (
            ("classes", "label", bool(self.classes)),
            ("score_range", "score", self.score_range is not None),
            ("label_above", "score", self.label_above is not None),
        ):
            if given and getattr(self, column) is None:
                raise UsageError(f"a source has {key} but no {column}: name its column")
        if not all(name and name == name.strip() for name in self.classes):
            raise UsageError(
                f"a source's classes are {list(self.classes)}: one is blank, or padded"
            )
        if len(set(self.classes)) < len(self.classes):
            raise UsageError(f"a source's classes are {list(self.classes)}: one is named twice")
        if self.score_range is not None:
            low, high = self.score_range
            if not -math.inf < low < high < math.inf:
                raise UsageError(
                    f"a source's score_range is {low:g} to {high:g}: give the least and the largest"
                )


@dataclass(frozen=True)
class Example:
    """The texts of one example, none of them empty."""

    anchor: str
    positives: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    label: str | None = None
    score: float | None = None
    """None where there is none."""


class Examples:
    """The examples of a source, read anew by each iteration."""

    def __init__(self, source: Source, root: Path | None) -> None:
        self._source = source
        self._root = root
        self.skipped = 0
        """Examples left out by the last iteration because a text that they need is empty."""

    def __iter__(self) -> Iterator[Example]:
        self.skipped = 0
        source = self._source
        if source.format == "builtin":
            yield from _builtin(source)
            return
        columns: Columns | None = None
        unseen: set[str] = set()
        for table in _tables(source, self._root):
            if columns is None:
                columns = choose_columns(source, table)
                unseen = set(columns.optional)
            yield from self._of_table(table, columns)
            unseen -= table.seen
        if unseen:
            raise SimjaxError(f"{describe(source, self._root)}: no record has {min(unseen)!r}")

    def _of_table(self, table: Table, columns: Columns) -> Iterator[Example]:
        required = (columns.anchor, *columns.positives)
        names = (*required, *columns.optional)
        last_positive = len(required)
        last_negative = last_positive + len(columns.negatives)
        for number, values in table.select(required, columns.optional):
            where = table.where(number)
            texts = [
                fields.texts(value, where, name, several=index > 0)
                for index, (name, value) in enumerate(
                    zip(names[:last_negative], values[:last_negative], strict=True)
                )
            ]
            positives = tuple(text for part in texts[1:last_positive] for text in part)
            if not texts[0] or (columns.positives and not positives):
                self.skipped += 1
                continue
            label = score = None
            if columns.label is not None:
                given = values[last_negative]
                label = fields.label(given, where, columns.label, self._source.classes)
            if columns.score is not None:
                score = fields.score(values[-1], where, columns.score, self._source.score_range)
            if self._source.label_above is not None and score is not None:
                label = "1" if score > self._source.label_above else "0"
            yield Example(
                anchor=texts[0][0],
                positives=positives,
                negatives=tuple(text for part in texts[last_positive:] for text in part),
                label=label,
                score=score,
            )


def read(source: Source, root: Path | None) -> Examples:
    """The examples of a source, to be iterated over.

    Args:
        source: what to read.
        root: the folder that `source.path` is relative to; None for the current one.

    Raises:
        SimjaxError: (while iterating) with file and line, for anything missing or malformed.
        UsageError: the source does not say what to read.
    """
    return Examples(source, root)


def prompted(source: Source, example: Example) -> list[str]:
    """The texts of an example as they are tokenised: anchor, positives, negatives."""
    documents = (*example.positives, *example.negatives)
    anchor = source.anchor_prefix + example.anchor
    return [anchor, *(source.document_prefix + text for text in documents)]


def describe(source: Source, root: Path | None) -> str:
    """The source in words, for messages."""
    if source.format == "builtin":
        return f"the built-in {source.path}"
    local = not remote.is_url(source.path)
    folder = str((root or Path()) / (source.path or "")) if local else str(source.path)
    return f"{folder} ({source.split})" if source.split else folder


def files(source: Source, root: Path | None) -> list[tuple[Path, str]]:
    """The files that a source is made of, in the order in which they are read, with their format.

    Raises:
        SimjaxError: there is no such file, or its format does not show.
        UsageError: `path` is not set.
    """
    if source.format == "builtin":
        return [(path, "text") for path in builtin.files()]
    table = _data_set(source, root)
    if table is not None:
        return [(path, source.format) for path in table.files]
    return [(path, format_) for path, format_ in _files(source, root)]


def _files(source: Source, root: Path | None) -> list[tuple[Path, FileFormat]]:
    if not source.path:
        raise UsageError("data.source.path is not set: name a file, or set data.source.format to "
                         "builtin")  # fmt: skip
    path = (root or Path()) / Path(source.path).expanduser()
    if (file := plain_or_gzip(path)).is_file():
        found = [file]
    elif glob.has_magic(source.path):
        matches = (Path(name) for name in glob.glob(str(path), recursive=True))
        found = sorted(match for match in matches if match.is_file())
        if not found:
            raise SimjaxError(f"{path}: no file matches this pattern{_nearest(path)}")
    elif path.is_dir():
        raise SimjaxError(
            f"{path}: this is a folder; name a file in it, or a pattern such as *.txt"
        )
    else:
        raise SimjaxError(f"{path}: no such file{_nearest(path)}")
    if source.format == "auto":
        return [(file, _format_by_name(file)) for file in found]
    return [(file, cast(FileFormat, source.format)) for file in found]


def _nearest(path: Path) -> str:
    """What exists nearest to a path that does not: its last existing folder, a similar name."""
    for parent in path.parents:
        if parent.is_dir():
            missing = path.relative_to(parent).parts[0]
            names = sorted(entry.name for entry in parent.iterdir())
            similar = difflib.get_close_matches(missing, names, n=1)
            mend = f"; did you mean {parent / similar[0]}?" if similar else ""
            return f" ({parent} exists, {missing} is not in it{mend})"
    return ""


def _tables(source: Source, root: Path | None) -> Iterator[Table]:
    data_set = _data_set(source, root)
    if data_set is not None:
        yield data_set
        return
    for path, format_ in _files(source, root):
        yield open_parquet(path) if format_ == "parquet" else LineTable(path, format_)


def _data_set(source: Source, root: Path | None) -> TfdsTable | HubTable | None:
    """The split of a data set that a library keeps, None for files."""
    if source.format not in LIBRARIES:
        return None
    if not source.path:
        raise UsageError(f"data.source.path is not set: name a data set of {source.format}")
    if source.format == "tfds":
        return TfdsTable(source.path, root, source.split or "train")
    return HubTable(source.path, root, source.subset, source.split)


def _format_by_name(path: Path) -> FileFormat:
    """The format that a file's name says.

    Raises:
        SimjaxError: it says none.
    """
    if path.suffix.lower() == ".parquet":
        return "parquet"
    format_ = ENDINGS.get(Path(path.name.lower().removesuffix(".gz")).suffix)
    if format_ is None:
        raise SimjaxError(
            f"{path}: the format does not show in the file's name (known endings: .parquet, "
            f"{', '.join(ENDINGS)}, all but the first also with .gz); say it with "
            "data.source.format"
        )
    return format_


def _builtin(source: Source) -> Iterator[Example]:
    pairs = source.path == "pairs"
    labelled = pairs and source.label == "module"
    if source.anchor or source.positives or source.negatives or source.score:
        raise UsageError("data.source: the built-in corpus has no columns to name")
    if source.label is not None and not labelled:
        raise UsageError(
            f"data.source.label is {source.label!r}: of the built-in corpus only pairs have a "
            "label, which is module"
        )
    corpus = builtin.corpus()
    if source.path == "sentences":
        yield from (Example(sentence) for sentence in corpus.sentences)
    elif pairs:
        for entry in corpus.pairs:
            label = None
            if labelled:
                where = f"the built-in corpus: {entry.name}"
                label = fields.label(entry.module, where, "module", source.classes)
            yield Example(entry.title, (entry.body,), label=label)
    else:
        raise UsageError(
            f"data.source.path is {source.path!r}: the built-in corpus has sentences and pairs"
        )
