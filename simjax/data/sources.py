"""Examples from files or from the built-in corpus.

Where `Source.anchor` is not set, the columns are found by their names, the first rule that fits:

| anchor | positives | hard negatives |
|---|---|---|
| `anchor` | `positive`, `positive_1`, ... | `negative`, `negative_1`, ... |
| `sent0` | `sent1` | `hard_neg` |
| `sentence1` | `sentence2`, if there is no `label`, `score` or `similarity_score` | |
| `query` | `positive`, `positive_1`, ..., `pos` | `negative`, `negative_1`, ..., `neg` |
| `text` | | |
| `sentence` | | |

JSON Lines have the columns that are keys of the first object; later objects may lack those of
hard negatives and labels. Texts are stripped of white space at both ends. An example whose anchor
is empty, or all of whose positives are, is skipped and counted; an empty negative is left out.
"""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from simjax.data import builtin
from simjax.data.records import Format, Table, format_by_name, plain_or_gzip
from simjax.errors import SimjaxError, UsageError

USUAL = "anchor, sent0, sentence1 (without score or label), query, text, sentence"
"""Names by which the column of the anchor is found; those of the others follow from it."""


@dataclass(frozen=True)
class Source:
    """What to read, and which of its columns mean what."""

    format: Literal["auto", "text", "csv", "tsv", "jsonl", "builtin"] = "auto"
    """`auto` goes by the file's ending."""
    path: str | None = None
    """A file or a glob, relative to `data.root`; for `builtin`: `sentences` or `pairs`. A file may
    be plain or .gz, whichever of the two is named."""
    anchor: str | None = None
    """Column of the anchor; by default the columns are found by their usual names, `USUAL`."""
    positives: tuple[str, ...] = ()
    """Columns of positives. A JSON list of strings gives several."""
    negatives: tuple[str, ...] = ()
    """Columns of hard negatives. A JSON list of strings gives several."""
    label: str | None = None
    """Column of the example's class."""


@dataclass(frozen=True)
class Example:
    """The texts of one example, none of them empty."""

    anchor: str
    positives: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    label: str | None = None


@dataclass(frozen=True)
class Columns:
    """Which columns mean what."""

    anchor: str
    positives: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    label: str | None = None

    @property
    def optional(self) -> tuple[str, ...]:
        """Columns that a JSON object may lack."""
        return self.negatives if self.label is None else (*self.negatives, self.label)


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
        for path, format_ in files(source, self._root):
            table = Table(path, format_)
            if columns is None:
                columns = choose_columns(source, table.columns, path)
                unseen = set(columns.optional)
            yield from self._of_table(table, columns)
            unseen -= table.seen
        if unseen:
            raise SimjaxError(f"{describe(source, self._root)}: no record has {min(unseen)!r}")

    def _of_table(self, table: Table, columns: Columns) -> Iterator[Example]:
        required = (columns.anchor, *columns.positives)
        last_positive = len(required)
        last_negative = last_positive + len(columns.negatives)
        for line, fields in table.select(required, columns.optional):
            names = (*required, *columns.negatives)
            texts = [
                _texts(value, several=index > 0, where=(table.path, line, names[index]))
                for index, value in enumerate(fields[:last_negative])
            ]
            positives = tuple(text for part in texts[1:last_positive] for text in part)
            if not texts[0] or (columns.positives and not positives):
                self.skipped += 1
                continue
            yield Example(
                anchor=texts[0][0],
                positives=positives,
                negatives=tuple(text for part in texts[last_positive:] for text in part),
                label=_label(fields[-1], (table.path, line)) if columns.label else None,
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


def describe(source: Source, root: Path | None) -> str:
    """The source in words, for messages."""
    if source.format == "builtin":
        return f"the built-in {source.path}"
    return str((root or Path()) / (source.path or ""))


def files(source: Source, root: Path | None) -> list[tuple[Path, Format]]:
    """The files of a source in the order in which they are read, and the format of each.

    Raises:
        SimjaxError: there is no such file, or its format does not show.
        UsageError: `path` is not set.
    """
    if source.format == "builtin":
        return [(path, "text") for path in builtin.files()]
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
        return [(file, format_by_name(file)) for file in found]
    return [(file, source.format) for file in found]


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


def choose_columns(source: Source, found: tuple[str, ...], path: Path) -> Columns:
    """The columns that a source names, or those of `found` that have usual names.

    Raises:
        SimjaxError: no column has a usual name.
        UsageError: some columns are named, but not the anchor, or one is named twice.
    """
    label = source.label
    if source.anchor is not None:
        columns = Columns(source.anchor, source.positives, source.negatives, label)
    elif source.positives or source.negatives:
        raise UsageError("data.source.anchor is not set, but other columns are: name it as well")
    else:
        usual = _usual_columns(found)
        if usual is None:
            raise SimjaxError(
                f"{path}:1: no columns with usual names ({USUAL}); found: {', '.join(found)}; set "
                "data.source.anchor, and data.source.positives if there are any"
            )
        columns = Columns(*usual, label)
    named = (columns.anchor, *columns.positives, *columns.negatives, *filter(None, [label]))
    if len(set(named)) < len(named):
        raise UsageError("data.source: the same column is named twice")
    return columns


def _usual_columns(
    found: tuple[str, ...],
) -> tuple[str, tuple[str, ...], tuple[str, ...]] | None:
    def numbered(stem: str) -> tuple[str, ...]:
        matches = [(re.fullmatch(rf"{stem}(?:_?(\d+))?", name), name) for name in found]
        return tuple(name for _, name in sorted((int(m[1] or 0), name) for m, name in matches if m))

    def present(*names: str) -> tuple[str, ...]:
        return tuple(name for name in names if name in found)

    if "anchor" in found:
        return "anchor", numbered("positive"), numbered("negative")
    if "sent0" in found:
        return "sent0", present("sent1"), present("hard_neg")
    # Graded or labelled pairs are not all positives: those columns have to be named.
    if "sentence1" in found and not present("label", "score", "similarity_score"):
        return "sentence1", present("sentence2"), ()
    if "query" in found:
        positives = (*numbered("positive"), *present("pos"))
        return "query", positives, (*numbered("negative"), *present("neg"))
    for name in ("text", "sentence"):
        if name in found:
            return name, (), ()
    return None


def _texts(value: Any, *, several: bool, where: tuple[Path, int, str]) -> tuple[str, ...]:
    """The texts of one field, stripped, without the empty ones."""
    if isinstance(value, str):
        parts = [value]
    elif value is None:
        return ()
    elif isinstance(value, list) and several and all(isinstance(part, str) for part in value):
        parts = value
    else:
        path, line, name = where
        wanted = "a string or a list of strings" if several else "a string"
        raise SimjaxError(f"{path}:{line}: {name!r} is not {wanted}: {str(value)[:40]}")
    for part in parts:
        if not part.isascii():
            _check_encodable(part, where)
    return tuple(text for text in (part.strip() for part in parts) if text)


def _check_encodable(text: str, where: tuple[Path, int, str]) -> None:
    """JSON may spell half of a surrogate pair, which no tokenizer takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        path, line, name = where
        raise SimjaxError(
            f"{path}:{line}: {name!r} is not Unicode text: lone surrogate at character "
            f"{error.start + 1}"
        ) from None


def _label(value: Any, where: tuple[Path, int]) -> str | None:
    if isinstance(value, list | dict):
        raise SimjaxError(f"{where[0]}:{where[1]}: the label is neither text nor number")
    text = "" if value is None else str(value).strip()
    return text or None


def _builtin(source: Source) -> Iterator[Example]:
    if source.anchor or source.positives or source.negatives or source.label:
        raise UsageError("data.source: the built-in corpus has no columns to name")
    corpus = builtin.corpus()
    if source.path == "sentences":
        yield from (Example(sentence) for sentence in corpus.sentences)
    elif source.path == "pairs":
        yield from (Example(entry.title, (entry.body,)) for entry in corpus.pairs)
    else:
        raise UsageError(
            f"data.source.path is {source.path!r}: the built-in corpus has sentences and pairs"
        )
