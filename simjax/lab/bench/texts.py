"""The texts that are encoded and trained on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from simjax.data.records import plain_or_gzip
from simjax.data.sources import Example, Source, read
from simjax.errors import SimjaxError

STS = "en/stsb/dev.tsv"
TRIPLES = "en/nli/triples_train.csv"


@dataclass(frozen=True)
class Origin:
    """Where texts are from.

    Attributes:
        source: What to read.
        root: The folder that its path is relative to.
        name: In words.
        note: What to tell the reader, empty if the texts are those that the goals are about.
    """

    source: Source
    root: Path | None
    name: str
    note: str = ""


def _choose(path: str, name: str, builtin: str, root: Path | None) -> Origin:
    asked = root is not None
    if root is None and os.environ.get("SIMJAX_DATA"):
        root = Path(os.environ["SIMJAX_DATA"])
    root = None if root is None else root.expanduser()
    if root is not None and plain_or_gzip(root / path).is_file():
        return Origin(Source(path=path), root, name)
    if asked:
        raise SimjaxError(f"{root}/{path}: no such file; check --data.root")
    where = f"{root / path}: no such file" if root else "neither --data.root nor SIMJAX_DATA given"
    note = f"texts are {builtin} of the built-in corpus, which the goals are not about ({where})"
    return Origin(Source(format="builtin", path=builtin), None, f"built-in {builtin}", note)


def sentences(root: Path | None) -> tuple[list[str], Origin]:
    """The distinct sentences of STS-B dev, or of the built-in corpus.

    Args:
        root: Folder of data sets; None looks at the variable SIMJAX_DATA.

    Raises:
        SimjaxError: The folder that was given has no such file, or the file is malformed.
    """
    from simjax.eval.sts import read_sts

    origin = _choose(STS, "STS-B dev", "sentences", root)
    if origin.root is not None:
        return read_sts(origin.root / STS).texts, origin
    return [example.anchor for example in read(origin.source, None)], origin


def triples(root: Path | None) -> Origin:
    """NLI triples, or pairs of the built-in corpus; see `sentences`.

    Raises:
        SimjaxError: The folder that was given has no such file.
    """
    return _choose(TRIPLES, "NLI triples", "pairs", root)


def examples(origin: Origin) -> list[Example]:
    """The examples of an origin, in the order in which a token store numbers them."""
    return list(read(origin.source, origin.root))
