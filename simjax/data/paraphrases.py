"""Two texts one behind the other in one row: `[CLS] a [SEP] b [SEP]`, in two segments.

Each is cut at half of the longest row, whatever its partner's length, so that what becomes of a
text does not depend on the other one. The views of an example are both orders (SimBERT,
github.com/ZhuiyiTechnology/simbert).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from simjax.data.packing import Tokens, pack
from simjax.errors import UsageError
from simjax.types import NO_TEXT, Block

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ORDERS = np.asarray([[0, 1], [1, 0]])
"""For each view, which text of an example stands in front, and which behind."""


def check_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuses a tokenizer that joins two texts in another way.

    Raises:
        UsageError: A pair is not the first text's tokens followed by the second's without its
            first token.
    """
    one, other = (tokenizer(text)["input_ids"] for text in ("a", "b"))
    if tokenizer("a", "b")["input_ids"] != one + other[1:] or one[-1:] != other[-1:]:
        name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
        raise UsageError(
            f"data.views is paraphrases and {name} does not join two texts as [CLS] a [SEP] b "
            "[SEP]; take one of BERT's or RoFormer's kind"
        )


def joined_lengths(lengths: Int[np.ndarray, "*B 2"]) -> Int[np.ndarray, "*B 2"]:
    """Tokens of both views, from those of the two texts by themselves; 0 where one is absent."""
    total = lengths.sum(axis=-1, keepdims=True) - 1
    total = np.where((lengths > 0).all(axis=-1, keepdims=True), total, 0)
    return np.repeat(total, 2, axis=-1)


def pack_pairs(
    tokens: Tokens,
    starts: Int[np.ndarray, "K T 2"],
    lengths: Int[np.ndarray, "K T 2"],
    row: Int[np.ndarray, "K T"],
    column: Int[np.ndarray, "K T"],
    *,
    rows: int,
    row_length: int,
) -> Block:
    """`pack` for texts that are made of two, with their segments.

    Args:
        tokens: the tokens of all texts, end to end, special tokens included.
        starts: where in `tokens` the two texts of each pair begin.
        lengths: their numbers of tokens; the first token of the second is left out.
        row: as of `pack`, of each pair.
        column: as of `pack`.
        rows: rows of a block.
        row_length: tokens of a row.

    Raises:
        ValueError: a pair lies outside the rows.
    """
    blocks, count, _ = starts.shape
    front = lengths[..., 0]
    behind = np.maximum(lengths[..., 1] - 1, 0)

    def side_by_side(one: Int[np.ndarray, "K T"], two: Int[np.ndarray, "K T"]) -> np.ndarray:
        return np.stack([one, two], axis=-1).reshape(blocks, 2 * count)

    pieces = pack(
        tokens,
        side_by_side(starts[..., 0], starts[..., 1] + 1),
        side_by_side(front, behind),
        side_by_side(row, row),
        side_by_side(column, column + front),
        rows=rows,
        row_length=row_length,
    )
    real = pieces.text != NO_TEXT
    segment = np.where(real, pieces.text % 2, 0).astype(np.int32)
    text = np.where(real, pieces.text // 2, NO_TEXT).astype(np.int32)
    own = np.take_along_axis(front, np.maximum(text, 0).reshape(blocks, -1), axis=1)
    behind_front = segment * own.reshape(text.shape)
    return replace(
        pieces,
        positions=(pieces.positions + behind_front).astype(np.int32),
        text=text,
        first=pieces.first[:, ::2],
        segment=segment,
    )
