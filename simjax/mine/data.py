"""What is mined: anchors with their positives, and the texts that negatives are taken from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from simjax.data.identity import normalised
from simjax.data.sources import Example
from simjax.errors import SimjaxError


@dataclass
class Anchor:
    """An anchor, and what belongs to it in all examples that share its normalised text.

    Attributes:
        text: As it stands in the first of them.
        own: Numbers of the texts that are no negatives: its positives, and its own text.
        positives: Numbers of its positives.
    """

    text: str
    own: set[int] = field(default_factory=set)
    positives: dict[int, None] = field(default_factory=dict)


@dataclass
class MiningData:
    """Anchors and texts, each once by normalised text.

    Attributes:
        pairs: (anchor, number of its anchor, positive) of each pair, as they stand in the data,
            each different pair once.
        anchors: The anchors.
        texts: The positives, then the corpus.
    """

    pairs: list[tuple[str, int, str]]
    anchors: list[Anchor]
    texts: list[str]


def collect(examples: Iterable[Example], corpus: Iterable[str], name: str) -> MiningData:
    """Number anchors and texts.

    Args:
        examples: Examples with positives; their own negatives are not used.
        corpus: More texts that negatives are taken from; empty ones are passed over.
        name: What the examples are of, for errors.

    Raises:
        SimjaxError: There are no examples, or one has no positive.
    """
    number_of: dict[str, int] = {}
    anchor_of: dict[str, int] = {}
    texts: list[str] = []
    anchors: list[Anchor] = []
    pairs: dict[tuple[str, int, str], None] = {}

    def number(text: str) -> int:
        found = number_of.setdefault(normalised(text), len(texts))
        if found == len(texts):
            texts.append(text)
        return found

    for example in examples:
        if not example.positives:
            raise SimjaxError(f"{name}: has no positives; name their column with --positives")
        place = anchor_of.setdefault(normalised(example.anchor), len(anchors))
        if place == len(anchors):
            anchors.append(Anchor(example.anchor))
        for positive in example.positives:
            anchors[place].positives[number(positive)] = None
            pairs[example.anchor, place, positive] = None
    if not anchors:
        raise SimjaxError(f"{name}: holds no examples")
    for text in corpus:
        if text.strip():
            number(text.strip())
    for form, place in anchor_of.items():
        anchor = anchors[place]
        anchor.own.update(anchor.positives)
        if form in number_of:
            anchor.own.add(number_of[form])
    return MiningData(list(pairs), anchors, texts)
