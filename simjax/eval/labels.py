"""Held-out pairs in classes: how often does a classifier of pairs find the right one?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from simjax.data.records import plain_or_gzip
from simjax.errors import SimjaxError
from simjax.eval.lines import read_columns

Classify: TypeAlias = Callable[[Sequence[tuple[str, str]], Sequence[str]], Sequence[str]]
"""For each pair the likeliest class of those that compete with the one it has."""


@dataclass(frozen=True)
class LabelledSet:
    """Pairs of texts, and the class of each."""

    pairs: list[tuple[str, str]]
    labels: list[str]


def read_labelled(path: Path) -> LabelledSet:
    """Read a TSV file: header, tabs, no quoting, `.gz` or plain.

    The columns are `sentence1` and `sentence2`, or `premise` and `hypothesis`, and `label`.

    Raises:
        SimjaxError: With file and line, for a missing column, a wrong number of fields, an empty
            text or no label; or there is no pair.
    """
    path = plain_or_gzip(path)
    pairs: list[tuple[str, str]] = []
    labels: list[str] = []
    columns = (("sentence1", "premise"), ("sentence2", "hypothesis"), ("label",))
    for number, fields in read_columns(path, *columns):
        one, other, label = (field.strip() for field in fields)
        if not one or not other:
            raise SimjaxError(f"{path}:{number}: a text is empty")
        if not label:
            raise SimjaxError(f"{path}:{number}: no label")
        pairs.append((one, other))
        labels.append(label)
    if not pairs:
        raise SimjaxError(f"{path}: holds no pairs")
    return LabelledSet(pairs, labels)


def accuracy(data: LabelledSet, classify: Classify) -> float:
    """How many of a hundred pairs get their class."""
    found = classify(data.pairs, data.labels)
    right = sum(one == other for one, other in zip(found, data.labels, strict=True))
    return 100.0 * right / len(data.labels)
