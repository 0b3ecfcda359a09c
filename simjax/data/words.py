"""Which tokens make up a word, which are no part of the text, and words drawn at random."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int

from simjax.data.draws import Draws

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Byte-level pieces write a white-space byte as one of these: space, line feed, tab, return.
_BYTE_LEVEL_SPACES = "\u0120\u010a\u0109\u010d"


@dataclass(frozen=True)
class Words:
    """What the pieces of a vocabulary say of words.

    A WordPiece token that begins with `##` goes on with the word before it. Byte-level and
    SentencePiece tokens begin a word if they begin with white space (written `Ġ` or `▁`),
    so that punctuation belongs to the word that it touches. Where the pieces tell nothing, as in
    vocabularies of whole words or characters, every token is a word. The first token of a text
    begins one always, and so does the first behind a special token.
    """

    goes_on: Bool[np.ndarray, "V"]
    """Tokens that go on with the word before them."""
    special: Bool[np.ndarray, "V"]
    """Tokens that are no part of the text; the one for unknown words is."""
    mask: int | None
    """Number of the mask token."""
    unknown: int | None
    """Number of the token for unknown words."""
    spaced: bool = False
    """Whether a word has other tokens at the start of a text than behind a space."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Words:
        """What a tokenizer's pieces say."""
        vocabulary = tokenizer.get_vocab()
        size = max(vocabulary.values()) + 1
        settings = json.loads(tokenizer.backend_tokenizer.to_str())
        prefix = settings["model"].get("continuing_subword_prefix") or ""
        spaces, spaced = _spaces(settings.get("pre_tokenizer"))
        goes_on, special = np.zeros((2, size), bool)
        for piece, number in vocabulary.items():
            if prefix:
                goes_on[number] = piece.startswith(prefix) and piece != prefix
            elif spaces:
                goes_on[number] = not piece.startswith(tuple(spaces))
        unknown = tokenizer.unk_token_id
        ends = ("bos", "eos", "sep", "pad", "cls", "mask")
        roles = {getattr(tokenizer, f"{role}_token_id") for role in ends}
        of_roles = {number for number in roles if number is not None}
        special[sorted(of_roles | (set(tokenizer.all_special_ids) - {unknown}))] = True
        goes_on[special] = False
        mask = tokenizer.mask_token_id
        return cls(goes_on, special, mask, None if unknown in of_roles else unknown, spaced)

    def starts(
        self, tokens: Int[np.ndarray, "n"], first: Bool[np.ndarray, "n"], *, tokens_alone: bool
    ) -> tuple[Bool[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
        """Where the parts of some texts begin, and which of them are words.

        A part is a word or, being no part of the text, a special token by itself.

        Args:
            tokens: Texts end to end.
            first: Which tokens begin a text.
            tokens_alone: Whether each token counts as a word.

        Returns:
            Of each token whether a part begins there, and whether it belongs to the text.
        """
        ordinary = ~self.special[tokens]
        if tokens_alone:
            return np.ones(len(tokens), bool), ordinary
        follows = np.zeros(len(tokens), bool)
        follows[1:] = ordinary[:-1]
        return ~(self.goes_on[tokens] & follows & ~first), ordinary


@dataclass(frozen=True)
class Texts:
    """Texts end to end."""

    tokens: Int[np.ndarray, "n"]
    lengths: Int[np.ndarray, "T"]


@dataclass(frozen=True)
class Parts:
    """Texts cut into words and, each by itself, the special tokens among them."""

    start: Int[np.ndarray, "P"]
    """First token of each part; the parts of all texts follow each other."""
    length: Int[np.ndarray, "P"]
    text: Int[np.ndarray, "P"]
    words: Int[np.ndarray, "W"]
    """The parts that are words."""
    count: Int[np.ndarray, "T"]
    """Words of each text."""

    @classmethod
    def of(cls, texts: Texts, words: Words, *, tokens_alone: bool) -> Parts:
        """The words of some texts, or their tokens as if each were one."""
        ends = np.cumsum(texts.lengths)
        first = np.zeros(len(texts.tokens), bool)
        first[(ends - texts.lengths)[texts.lengths > 0]] = True
        starts, ordinary = words.starts(texts.tokens, first, tokens_alone=tokens_alone)
        start = np.flatnonzero(starts)
        text = np.repeat(np.arange(len(ends)), texts.lengths)[start]
        of_text = np.flatnonzero(ordinary[start])
        count = np.bincount(text[of_text], minlength=len(ends))
        length = np.diff(start, append=len(texts.tokens))
        return cls(start, length, text, of_text, count)

    @cached_property
    def text_of_word(self) -> Int[np.ndarray, "W"]:
        """The text of each word."""
        return self.text[self.words]

    @cached_property
    def number(self) -> Int[np.ndarray, "W"]:
        """Which word of its text each is, from 0."""
        return np.arange(len(self.words)) - self._first[self.text_of_word]

    @cached_property
    def _first(self) -> Int[np.ndarray, "T"]:
        return np.cumsum(self.count) - self.count

    def in_random_order(
        self, draws: Draws, moved: Bool[np.ndarray, "W"] | None = None
    ) -> Int[np.ndarray, "W"]:
        """All words, those of a text together and in random order: indices into `words`.

        Args:
            draws: Of the texts.
            moved: Which words take part; the others come last, in the order in which they stand.
        """
        # One sort of integers: the text in the high bits, then a draw, then the word's number.
        low = np.uint64(max(1, int(self.count.max(initial=0)).bit_length()))
        high = np.uint64(max(1, len(self.count).bit_length()))
        draw = draws.bits(self.text_of_word, self.number) >> np.uint64(1)
        if moved is not None:
            draw = np.where(moved, draw, np.uint64(2**64 - 1))
        number = self.number.astype(np.uint64)
        keys = self.text_of_word.astype(np.uint64) << (np.uint64(64) - high)
        keys |= (draw >> high) >> low << low
        keys |= number
        keys.sort()
        mask = (np.uint64(1) << low) - np.uint64(1)
        return self._first[self.text_of_word] + (keys & mask).astype(np.int64)

    def choose(
        self,
        counts: Int[np.ndarray, "T"],
        draws: Draws,
        *,
        among: Bool[np.ndarray, "W"] | None = None,
        growth: Int[np.ndarray, "W"] | None = None,
        room: Int[np.ndarray, "T"] | None = None,
    ) -> Bool[np.ndarray, "W"]:
        """So many words of each text, every set of them as likely.

        Args:
            counts: How many; no more than there are.
            draws: Of the texts.
            among: Which may be chosen; no fewer than `counts`.
            growth: Tokens by which each would make its text longer.
            room: Tokens that each text may grow by; what is drawn later goes without.
        """
        order = self.in_random_order(draws, among)
        taken = self.number < counts[self.text_of_word]
        if growth is not None and room is not None:
            more = np.where(taken, np.maximum(growth[order], 0), 0)
            total = np.cumsum(more)
            before = (total - more)[self._first[self.count > 0]]
            spent = total - np.repeat(before, self.count[self.count > 0])
            taken &= spent <= room[self.text_of_word]
        chosen = np.zeros(len(order), bool)
        chosen[order[taken]] = True
        return chosen

    def on_parts(self, of_words: Bool[np.ndarray, "W"]) -> Bool[np.ndarray, "P"]:
        """The same truth values for all parts, false for special tokens."""
        found = np.zeros(len(self.start), bool)
        found[self.words] = of_words
        return found


def _spaces(pre_tokenizer: dict[str, Any] | None) -> tuple[str, bool]:
    """Characters that pieces at the start of a word begin with, and whether they are bytes."""
    if pre_tokenizer is None:
        return "", False
    parts = [pre_tokenizer, *pre_tokenizer.get("pretokenizers", [])]
    for part in parts:
        if part["type"] == "ByteLevel":
            return _BYTE_LEVEL_SPACES, True
        if part["type"] == "Metaspace":
            return part.get("replacement", "\u2581"), False
    return "", False
