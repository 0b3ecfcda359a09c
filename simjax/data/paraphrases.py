"""Two texts one behind the other in one row, in two segments.

As `[CLS] a [SEP] b [SEP]`, with places that count on, each text is cut at half of the longest row,
whatever its partner's length, so that what becomes of a text does not depend on the other one. The
views of an example are both orders (SimBERT, github.com/ZhuiyiTechnology/simbert).

As `[CLS] a [SEP] [CLS] b [SEP]` the text behind is whole, and its places count from 0: nothing but
what attention lets through tells it of the text in front. A reconstruction has one text in both
places (UniVAE, github.com/bojone/univae).
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
            first token, or as of `check_ends`.
    """
    check_ends(tokenizer, "paraphrases")
    one, other = (tokenizer(text)["input_ids"] for text in ("a", "b"))
    if tokenizer("a", "b")["input_ids"] != one + other[1:]:
        name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
        raise UsageError(
            f"data.views is paraphrases and {name} does not join two texts as [CLS] a [SEP] b "
            "[SEP]; take one of BERT's or RoFormer's kind"
        )


def check_ends(tokenizer: PreTrainedTokenizerFast, views: str) -> None:
    """Refuses a tokenizer whose texts do not begin and end with the tokens that say so.

    A text that is written begins behind the first and is over with the second.

    Args:
        tokenizer: The tokenizer.
        views: `data.views`, for the complaint.

    Raises:
        UsageError: They do not.
    """
    found = tokenizer("a")["input_ids"]
    if [found[:1], found[-1:]] != [[tokenizer.cls_token_id], [tokenizer.sep_token_id]]:
        name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
        raise UsageError(
            f"data.views is {views} and {name} does not put a text between its [CLS] and [SEP] "
            "tokens; take one of BERT's or RoFormer's kind"
        )


def pair_lengths(lengths: Int[np.ndarray, "*B 2"], *, whole: bool = False) -> Int[np.ndarray, "*B"]:
    """Tokens of two texts in a row, from those of each by itself; 0 where one is absent.

    Args:
        lengths: Tokens of each.
        whole: The text behind keeps its first token.
    """
    there = (lengths > 0).all(axis=-1)
    return np.where(there, lengths.sum(axis=-1) - (0 if whole else 1), 0)


def joined_lengths(lengths: Int[np.ndarray, "*B 2"]) -> Int[np.ndarray, "*B 2"]:
    """Tokens of both orders, from those of the two texts by themselves; 0 where one is absent."""
    return np.repeat(pair_lengths(lengths)[..., None], 2, axis=-1)


def pack_pairs(
    tokens: Tokens,
    starts: Int[np.ndarray, "K T 2"],
    lengths: Int[np.ndarray, "K T 2"],
    row: Int[np.ndarray, "K T"],
    column: Int[np.ndarray, "K T"],
    *,
    rows: int,
    row_length: int,
    whole: bool = False,
) -> Block:
    """`pack` for texts that are made of two, with their segments.

    Args:
        tokens: the tokens of all texts, end to end, special tokens included.
        starts: where in `tokens` the two texts of each pair begin.
        lengths: their numbers of tokens.
        row: as of `pack`, of each pair.
        column: as of `pack`.
        rows: rows of a block.
        row_length: tokens of a row.
        whole: the second keeps its first token and has places from 0; otherwise that token is left
            out, and its places go on from those of the first.

    Raises:
        ValueError: a pair lies outside the rows.
    """
    blocks, count, _ = starts.shape
    front = lengths[..., 0]
    left_out = 0 if whole else 1
    behind = np.maximum(lengths[..., 1] - left_out, 0)

    def side_by_side(one: Int[np.ndarray, "K T"], two: Int[np.ndarray, "K T"]) -> np.ndarray:
        return np.stack([one, two], axis=-1).reshape(blocks, 2 * count)

    pieces = pack(
        tokens,
        side_by_side(starts[..., 0], starts[..., 1] + left_out),
        side_by_side(front, behind),
        side_by_side(row, row),
        side_by_side(column, column + front),
        rows=rows,
        row_length=row_length,
    )
    real = pieces.text != NO_TEXT
    segment = np.where(real, pieces.text % 2, 0).astype(np.int32)
    text = np.where(real, pieces.text // 2, NO_TEXT).astype(np.int32)
    positions = pieces.positions
    if not whole:
        own = np.take_along_axis(front, np.maximum(text, 0).reshape(blocks, -1), axis=1)
        positions = (positions + segment * own.reshape(text.shape)).astype(np.int32)
    return replace(
        pieces,
        positions=positions,
        text=text,
        first=pieces.first[:, ::2],
        segment=segment,
    )
