"""Which columns of a table mean what.

Where `Source.anchor` is not set, the columns are found by their names, the first rule that fits:

| anchor | positives | hard negatives |
|---|---|---|
| `anchor` | `positive`, `positive_1`, ... | `negative`, `negative_1`, ... |
| `sent0` | `sent1` | `hard_neg` |
| `sentence1` | `sentence2`, if there is no `label`, `score` or `similarity_score` | |
| `query` | `positive`, `positive_1`, ..., `pos` | `negative`, `negative_1`, ..., `neg` |
| `text` | | |
| `sentence` | | |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simjax.errors import SimjaxError, UsageError

if TYPE_CHECKING:
    from simjax.data.sources import Source
    from simjax.data.table import Table

USUAL = "anchor, sent0, sentence1 (without score or label), query, text, sentence"
"""Names by which the column of the anchor is found; those of the others follow from it."""


@dataclass(frozen=True)
class Columns:
    """Which columns mean what."""

    anchor: str
    positives: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    label: str | None = None
    score: str | None = None

    @property
    def optional(self) -> tuple[str, ...]:
        """Columns that a JSON object may lack: negatives, then label and score where named."""
        return (*self.negatives, *filter(None, (self.label, self.score)))


def choose_columns(source: Source, table: Table) -> Columns:
    """The columns that a source names, or those of a table that have usual names.

    Raises:
        SimjaxError: no column has a usual name.
        UsageError: some columns are named, but not the anchor, or one is named twice.
    """
    of_examples = (source.label, source.score)
    if source.anchor is not None:
        columns = Columns(source.anchor, source.positives, source.negatives, *of_examples)
    elif source.positives or source.negatives:
        raise UsageError("data.source.anchor is not set, but other columns are: name it as well")
    else:
        usual = _usual_columns(table.columns)
        if usual is None:
            found = ", ".join(table.columns) or "none"
            raise SimjaxError(
                f"{table.header}: no columns with usual names ({USUAL}); found: {found}; set "
                "data.source.anchor, and data.source.positives if there are any"
            )
        columns = Columns(*usual, *of_examples)
    named = (columns.anchor, *columns.positives, *columns.optional)
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
