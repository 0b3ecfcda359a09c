"""Views of texts that differ in their words, made of the token ids of a batch.

What becomes of a view follows from the seed, the number of the batch, the number of the example
and the view alone: not from the rest of the batch, nor from blocks, processes or micro-batches.
Everything is done to all texts of a batch at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from simjax.data.augment import (
    Crop,
    Delete,
    FeatureCutoff,
    Mask,
    Repeat,
    Shuffle,
    Synonyms,
    TextChange,
    TokenCutoff,
    changed_views,
)
from simjax.data.config import DataConfig
from simjax.data.draws import Draws
from simjax.data.packing import Tokens
from simjax.data.synonyms import SynonymTable, word_hashes
from simjax.data.words import Parts, Texts, Words
from simjax.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def _gather(
    tokens: Int[np.ndarray, "n"],
    start: Int[np.ndarray, "Q"],
    length: Int[np.ndarray, "Q"],
    text: Int[np.ndarray, "Q"],
    num_texts: int,
) -> Texts:
    """Texts made of runs of tokens, those of a text following each other."""
    before = np.cumsum(length) - length
    source = np.arange(int(length.sum())) + np.repeat(start - before, length)
    lengths = np.bincount(text, weights=length, minlength=num_texts).astype(np.int64)
    return Texts(tokens[source], lengths)


def rounded_share(
    rate: float, count: Int[np.ndarray, "T"], draws: Float[np.ndarray, "T"]
) -> Int[np.ndarray, "T"]:
    """`rate * count`, rounded up with the odds of its fraction, so that the mean is met."""
    return np.floor(rate * count + draws).astype(np.int64)


@dataclass(frozen=True)
class Augmenter:
    """Makes the views of batches."""

    changes: tuple[TextChange, ...]
    """In their order."""
    words: Words
    tables: tuple[SynonymTable | None, ...]
    """A table for each change that has one."""
    max_length: int
    """Tokens that no text grows beyond."""
    seed: int

    @property
    def digests(self) -> list[str]:
        """Of the tables."""
        return [table.digest for table in self.tables if table is not None]

    def longest(self, lengths: Int[np.ndarray, "*T"]) -> Int[np.ndarray, "*T"]:
        """Tokens that views of texts of these lengths may have at most."""
        if not any(isinstance(change, Repeat | Synonyms) for change in self.changes):
            return lengths
        return np.where(lengths > 0, self.max_length, 0)

    def __call__(
        self,
        n: int,
        examples: Int[np.ndarray, "B"],
        tokens: Tokens,
        starts: Int[np.ndarray, "B V"],
        lengths: Int[np.ndarray, "B V"],
        num_positives: int,
    ) -> tuple[Int[np.ndarray, "m"], Int[np.ndarray, "B V"], Int[np.ndarray, "B V"]]:
        """The views of batch `n`.

        Args:
            n: Number of the batch.
            examples: Numbers of its examples.
            tokens: Of all texts.
            starts: First token of each view.
            lengths: Tokens of each; 0 where there is no such view.
            num_positives: How many views behind the first are positives.

        Returns:
            Tokens, starts and lengths of the views.
        """
        each = lengths.reshape(-1).astype(np.int64)
        place = np.arange(each.sum()) + np.repeat(starts.reshape(-1) - (each.cumsum() - each), each)
        texts = Texts(np.asarray(tokens[place], np.int32), each)
        num_views = lengths.shape[1]
        draws = Draws.of((self.seed, n), examples, num_views)
        for number, (change, table) in enumerate(zip(self.changes, self.tables, strict=True)):
            changed = changed_views(change.views, num_views, num_positives)
            where = np.tile(np.asarray(changed), len(examples))
            texts = self._changed(change, table, texts, where, draws.at(number))
        each = texts.lengths
        begin = (each.cumsum() - each).reshape(lengths.shape)
        return texts.tokens, begin, each.reshape(lengths.shape)

    def _changed(
        self,
        change: TextChange,
        table: SynonymTable | None,
        texts: Texts,
        where: Bool[np.ndarray, "T"],
        draws: Draws,
    ) -> Texts:
        tokens_alone = getattr(change, "unit", "word") == "token"
        parts = Parts.of(texts, self.words, tokens_alone=tokens_alone)
        match change:
            case Crop() | Delete():
                return _shortened(change, texts, parts, where, draws)
            case Repeat():
                return self._repeated(change, texts, parts, where, draws)
            case Synonyms():
                assert table is not None  # made with it
                return self._replaced(change, table, texts, parts, where, draws)
            case Mask():
                return self._masked(change, texts, parts, where, draws)
            case Shuffle():
                return _shuffled(texts, parts, where, draws)

    def _repeated(
        self, change: Repeat, texts: Texts, parts: Parts, where: np.ndarray, draws: Draws
    ) -> Texts:
        most = np.maximum(2, np.floor(change.rate * parts.count))
        count = np.floor(draws.at(0).of_texts() * (most + 1)).astype(np.int64)
        count = np.where(where, np.minimum(count, parts.count), 0)
        length = parts.length[parts.words]
        room = self.max_length - texts.lengths
        chosen = parts.choose(count, draws.at(1), growth=length, room=room)
        twice = np.repeat(np.arange(len(parts.start)), 1 + parts.on_parts(chosen))
        return _gather(
            texts.tokens,
            parts.start[twice],
            parts.length[twice],
            parts.text[twice],
            len(texts.lengths),
        )

    def _replaced(
        self,
        change: Synonyms,
        table: SynonymTable,
        texts: Texts,
        parts: Parts,
        where: np.ndarray,
        draws: Draws,
    ) -> Texts:
        hashes = word_hashes(texts.tokens, parts.start, parts.length)[parts.words]
        found, synonym = table.find(hashes, draws.at(2).uniform(parts.text_of_word, parts.number))
        known = np.bincount(parts.text_of_word[found], minlength=len(texts.lengths))
        count = _wanted(change, known, draws.at(0))
        chosen = parts.choose(
            np.where(where, np.minimum(count, known), 0),
            draws.at(1),
            among=found,
            growth=table.length[synonym] - parts.length[parts.words],
            room=self.max_length - texts.lengths,
        )
        start, length = parts.start.copy(), parts.length.copy()
        place, synonym = parts.words[chosen], synonym[chosen]
        start[place] = len(texts.tokens) + table.start[synonym]
        length[place] = table.length[synonym]
        tokens = np.concatenate([texts.tokens, table.tokens])
        return _gather(tokens, start, length, parts.text, len(texts.lengths))

    def _masked(
        self, change: Mask, texts: Texts, parts: Parts, where: np.ndarray, draws: Draws
    ) -> Texts:
        count = rounded_share(change.rate, parts.count, draws.at(0).of_texts())
        chosen = parts.choose(np.where(where, count, 0), draws.at(1))
        (place,) = np.nonzero(np.repeat(parts.on_parts(chosen), parts.length))
        text = np.repeat(np.arange(len(texts.lengths)), texts.lengths)[place]
        number = place - (np.cumsum(texts.lengths) - texts.lengths)[text]
        fate = draws.at(2).uniform(text, number)
        ordinary = np.flatnonzero(~self.words.special)
        drawn = np.floor(draws.at(3).uniform(text, number) * len(ordinary)).astype(np.int64)
        assert self.words.mask is not None  # checked when the augmenter was made
        tokens = texts.tokens.copy()
        other = np.where(fate < change.random + change.kept, tokens[place], self.words.mask)
        tokens[place] = np.where(fate < change.random, ordinary[drawn], other)
        return Texts(tokens, texts.lengths)


def _wanted(change: Delete | Synonyms, count: np.ndarray, draws: Draws) -> np.ndarray:
    if change.words is not None:
        return np.full(len(count), change.words)
    return rounded_share(change.rate, count, draws.of_texts())


def _shortened(
    change: Crop | Delete, texts: Texts, parts: Parts, where: np.ndarray, draws: Draws
) -> Texts:
    if isinstance(change, Crop):
        gone = rounded_share(change.rate, parts.count, draws.at(0).of_texts())
    else:
        gone = _wanted(change, parts.count, draws.at(0))
    gone = np.where(where, np.clip(gone, 0, np.maximum(parts.count - 1, 0)), 0)
    if isinstance(change, Crop):
        begin = np.floor(draws.at(1).of_texts() * (gone + 1)).astype(np.int64)
        end = begin + parts.count - gone
        inside = parts.number >= begin[parts.text_of_word]
        dropped = ~(inside & (parts.number < end[parts.text_of_word]))
    else:
        dropped = parts.choose(gone, draws.at(1))
    stays = ~parts.on_parts(dropped)
    return _gather(
        texts.tokens,
        parts.start[stays],
        parts.length[stays],
        parts.text[stays],
        len(texts.lengths),
    )


def _shuffled(texts: Texts, parts: Parts, where: np.ndarray, draws: Draws) -> Texts:
    order = np.arange(len(parts.start))
    moved = where[parts.text_of_word]
    order[parts.words] = parts.words[parts.in_random_order(draws, moved)]
    return _gather(
        texts.tokens, parts.start[order], parts.length[order], parts.text, len(texts.lengths)
    )


def make_augmenter(config: DataConfig, tokenizer: PreTrainedTokenizerFast) -> Augmenter | None:
    """What changes the words of a run's views; None if nothing does.

    Raises:
        UsageError: There is no mask token, and a view needs it.
        SimjaxError: A table of synonyms is faulty.
    """
    changes = tuple(
        change for change in config.augment if not isinstance(change, FeatureCutoff | TokenCutoff)
    )
    if not changes:
        return None
    words = Words.of(tokenizer)
    if words.mask is None and any(isinstance(change, Mask) for change in changes):
        raise UsageError("data.augment has a mask view and the tokenizer has no mask token")
    tables = tuple(
        SynonymTable.read(Path(config.root_path or "") / change.path, tokenizer, words)
        if isinstance(change, Synonyms)
        else None
        for change in changes
    )
    return Augmenter(changes, words, tables, config.max_length, config.seed)
