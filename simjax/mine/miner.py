"""Embed, search, choose, write: hard negatives from examples to a file that can be trained on."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
import numpy as np
from jaxtyping import Float32, Int

from simjax.errors import SimjaxError, UsageError
from simjax.index.exact import ExactIndex
from simjax.mine.data import MiningData
from simjax.mine.negatives import MiningConfig, Refused, choose
from simjax.processes import drafts

Encode: TypeAlias = Callable[[Sequence[str]], Float32[np.ndarray, "N D"]]
"""Texts to unit vectors."""

Layout: TypeAlias = Literal["triplet", "n-tuple"]
"""`triplet`: a row for each negative. `n-tuple`: all negatives of a pair in one row, and no row for
a pair that has too few."""

ENDINGS = (".csv", ".jsonl")


@dataclass(frozen=True)
class Mined:
    """The negatives of each anchor.

    Attributes:
        negatives: Numbers of texts, the nearest first, by anchor.
        positive_score: Mean similarity of anchors to their least similar positive.
        negative_score: Mean similarity of anchors to their negatives; NaN if there are none.
        refused: How many candidates were refused.
    """

    negatives: list[Int[np.ndarray, "m"]]
    positive_score: float
    negative_score: float
    refused: Refused


def mine(
    data: MiningData,
    config: MiningConfig,
    encode_anchors: Encode,
    encode_texts: Encode,
    *,
    devices: Sequence[jax.Device] | None = None,
    advance: Callable[[int], None] = lambda anchors: None,
) -> Mined:
    """Find the negatives of every anchor by exact search.

    Args:
        data: Anchors and texts.
        config: The rules.
        encode_anchors: Anchors to unit vectors.
        encode_texts: Texts to unit vectors.
        devices: Which devices search.
        advance: Told of anchors as they are done.
    """
    anchors = encode_anchors([anchor.text for anchor in data.anchors])
    texts = encode_texts(data.texts)
    depth = config.depth(max(len(anchor.positives) for anchor in data.anchors))
    most_own = max(len(anchor.own) for anchor in data.anchors)
    hits = ExactIndex(texts, devices=devices).search(anchors, depth + most_own, advance)
    refused = Refused()
    negatives: list[Int[np.ndarray, "m"]] = []
    positive_scores, negative_scores = [], []
    for number, (anchor, vector) in enumerate(zip(data.anchors, anchors, strict=True)):
        positive = float((texts[list(anchor.positives)] @ vector).min())
        chosen = choose(
            hits.scores[number],
            hits.rows[number],
            sorted(anchor.own),
            positive,
            depth,
            config,
            refused,
            number=number,
        )
        negatives.append(chosen)
        positive_scores.append(positive)
        negative_scores.extend(texts[chosen] @ vector)
    mean = float(np.mean(negative_scores)) if negative_scores else float("nan")
    return Mined(negatives, float(np.mean(positive_scores)), mean, refused)


def records(
    data: MiningData, mined: Mined, negatives: int, layout: Layout
) -> Iterator[dict[str, str]]:
    """The rows of the output, in the order of the examples, under names that training knows."""
    for text, place, positive in data.pairs:
        chosen = [data.texts[number] for number in mined.negatives[place]]
        if layout == "triplet":
            for negative in chosen:
                yield {"anchor": text, "positive": positive, "negative": negative}
        elif len(chosen) == negatives:
            columns = {f"negative_{i}": negative for i, negative in enumerate(chosen, start=1)}
            yield {"anchor": text, "positive": positive, **columns}


def check_output(path: Path) -> None:
    """Refuse an output that `write` does not know.

    Raises:
        UsageError: Its name shows no format.
    """
    if path.suffix not in ENDINGS:
        raise UsageError(f"{path}: OUTPUT must end in {' or '.join(ENDINGS)}")


def write(path: Path, rows: Iterator[dict[str, str]]) -> int:
    """Write rows as CSV or JSON Lines, whole or not at all; returns how many there were.

    Raises:
        SimjaxError: There are none, or the file cannot be written.
    """
    check_output(path)
    draft = drafts.draft_of(path)
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8", newline="") as file:
            writer: Any = None
            for row in rows:
                if path.suffix == ".jsonl":
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                else:
                    if writer is None:
                        writer = csv.DictWriter(file, list(row), lineterminator="\n")
                        writer.writeheader()
                    writer.writerow(row)
                count += 1
        if not count:
            raise SimjaxError(
                f"{path}: no negatives were found, and nothing was written; allow more candidates "
                "(--range_max) or relax the scores"
            )
        draft.replace(path)
    except OSError as error:
        raise SimjaxError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        draft.unlink(missing_ok=True)
    return count
