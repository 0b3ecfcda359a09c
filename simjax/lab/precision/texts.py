"""Real texts for part two: pairs to train on, pairs and STS sentences that are held out.

Nothing is downloaded. Without a folder of data sets the pairs are those of the built-in corpus;
with one they are entailment pairs (SNLI and MultiNLI), and STS-B dev is scored as well.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from simjax.data import sources
from simjax.data.identity import normalised
from simjax.data.records import plain_or_gzip
from simjax.data.sources import Source
from simjax.errors import SimjaxError
from simjax.eval.sts import StsSet, read_sts, sts_set

Pair: TypeAlias = tuple[str, str]

NLI = "en/nli/triples_train.csv"
STS = "en/stsb/dev.tsv"
HELD_OUT_OUT_OF = 16
"""One NLI anchor in this many is held out, chosen by a hash."""


@dataclass(frozen=True)
class Corpus:
    """What is trained on and what is scored.

    Attributes:
        name: In the report.
        pairs: Anchor and positive. No text of these is one of `held_out` or of `sts`.
        held_out: Pairs of distinct anchors and distinct positives.
        sts: Sentence pairs with gold similarities, None where there are none.
    """

    name: str
    pairs: tuple[Pair, ...]
    held_out: tuple[Pair, ...]
    sts: StsSet | None = None

    @property
    def digest(self) -> str:
        """Differs where any text or gold score does."""
        gold = "" if self.sts is None else repr([s.gold.tolist() for s in self.sts.subsets])
        sts = () if self.sts is None else tuple(self.sts.texts)
        text = repr((self.pairs, self.held_out, sts, gold))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def load(root: Path | None) -> Corpus:
    """The corpus of a folder of data sets, or the built-in one.

    Raises:
        SimjaxError: The folder lacks a file, or one is malformed.
    """
    return _builtin() if root is None else _nli(root.expanduser())


def _builtin() -> Corpus:
    from simjax.data.builtin import corpus

    found = corpus()
    return Corpus(
        "titles and texts of the documentation of Python's standard library (built in)",
        tuple((entry.title, entry.body) for entry in found.pairs),
        tuple((entry.title, entry.body) for entry in found.held_out),
    )


def _nli(root: Path) -> Corpus:
    for path in (NLI, STS):
        if not plain_or_gzip(root / path).is_file():
            raise SimjaxError(f"{root}/{path}: no such file; --root names a folder of data sets")
    sts = read_sts(root / STS)
    examples = sources.read(Source(path=NLI), root)
    pairs = dict.fromkeys((example.anchor, example.positives[0]) for example in examples)
    train, held_out = split(list(pairs), hidden=frozenset(map(normalised, sts.texts)))
    name = "entailment pairs of SNLI and MultiNLI, and STS-B dev"
    return Corpus(name, train, held_out, sts)


def split(
    pairs: list[Pair], hidden: frozenset[str] = frozenset(), out_of: int = HELD_OUT_OUT_OF
) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    """Pairs to train on and pairs held out, chosen by a hash of the anchor.

    Args:
        pairs: Anchor and positive; anchors may repeat.
        hidden: Normalised texts that must not be trained on.
        out_of: One anchor in so many is held out.
    """
    taken: set[str] = set(hidden)
    held_out: list[Pair] = []
    rest: list[Pair] = []
    for pair in pairs:
        anchor, positive = map(normalised, pair)
        if hashlib.sha256(anchor.encode("utf-8", "surrogatepass")).digest()[0] % out_of:
            rest.append(pair)
        elif anchor != positive and taken.isdisjoint((anchor, positive)):
            held_out.append(pair)
            taken |= {anchor, positive}
    train = tuple(pair for pair in rest if taken.isdisjoint(map(normalised, pair)))
    if not train or not held_out:
        raise SimjaxError(f"{len(train)} pairs to train on and {len(held_out)} held out: too few")
    return train, tuple(held_out)


def easy(pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
    """Each distinct anchor of at least two words, and the same without its last word."""
    anchors = dict.fromkeys(anchor for anchor, _ in pairs if len(anchor.split()) > 1)
    return tuple((anchor, " ".join(anchor.split()[:-1])) for anchor in anchors)


def halves(sts: StsSet) -> tuple[StsSet, StsSet]:
    """Every other pair: the first half chooses learning rates, the second is reported."""
    parts = []
    for start in (0, 1):
        subsets = tuple(
            type(subset)(
                subset.name, subset.first[start::2], subset.second[start::2], subset.gold[start::2]
            )
            for subset in sts.subsets
        )
        parts.append(sts_set(subsets))
    return parts[0], parts[1]
