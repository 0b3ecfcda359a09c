"""A table of synonyms, and the words of a batch that are in it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from simjax.data.shuffle import mix
from simjax.data.words import Words
from simjax.errors import SimjaxError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def read_synonyms(path: Path) -> dict[str, tuple[int, tuple[str, ...]]]:
    """For each word of a table the line that it stands on, and what may stand in its place.

    Raises:
        SimjaxError: With file and line, if it is not as `augment.Synonyms` says.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        place = error.object[: error.start].count(b"\n") + 1
        raise SimjaxError(f"{path}:{place}: not valid UTF-8; convert the file to UTF-8") from None
    except OSError as error:
        raise SimjaxError(f"{path}: {error.strerror or error}") from error
    table: dict[str, tuple[int, tuple[str, ...]]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        word, *others = (field.strip() for field in line.split("\t"))
        if not others or not all((word, *others)):
            raise SimjaxError(
                f"{path}:{number}: expected a word, a tab and a synonym, and maybe more of them "
                "behind tabs"
            )
        if len(word.split()) > 1:
            raise SimjaxError(f"{path}:{number}: {word!r} is several words; only one has synonyms")
        if word in table:
            raise SimjaxError(
                f"{path}:{number}: {word!r} has synonyms on line {table[word][0]} already; put "
                "them all on one line"
            )
        if word in others:
            raise SimjaxError(f"{path}:{number}: {word!r} is a synonym of itself; remove it")
        table[word] = (number, tuple(others))
    return table


@dataclass(frozen=True)
class SynonymTable:
    """Synonyms as tokens."""

    hashes: UInt64[np.ndarray, "S"]
    """Of each word that has synonyms, in their order; two have the same with odds of 2**-64."""
    first: Int[np.ndarray, "S"]
    """Its first synonym."""
    count: Int[np.ndarray, "S"]
    """How many it has."""
    start: Int[np.ndarray, "C"]
    """First token of each synonym."""
    length: Int[np.ndarray, "C"]
    """Tokens of each synonym."""
    tokens: Int[np.ndarray, "n"]
    """Tokens of all synonyms."""
    digest: str
    """SHA-256 of the file, which decides what a run becomes where its name does not."""

    @classmethod
    def read(cls, path: Path, tokenizer: PreTrainedTokenizerFast, words: Words) -> SynonymTable:
        """The table of a file.

        Words that the tokenizer does not know, or takes for several, are left out; so are synonyms
        that it does not know, or takes for the word itself. Words that are one to it, as "Cat" and
        "cat" may be, have the synonyms of all their lines.

        Raises:
            SimjaxError: The file is faulty, or nothing of it is left.
        """
        backend = tokenizer.backend_tokenizer
        known: dict[tuple[int, ...], list[tuple[int, ...]]] = {}

        def tokens_of(text: str) -> tuple[int, ...]:
            ids = tuple(backend.encode(text, add_special_tokens=False).ids)
            return () if words.unknown in ids or words.special[list(ids)].any() else ids

        for word, (_, others) in read_synonyms(path).items():
            # Behind a space some tokenizers give a word other tokens than at the start of a text.
            for space in ("", " ") if words.spaced else ("",):
                key = tokens_of(space + word)
                found = [
                    ids for other in others if (ids := tokens_of(space + other)) and ids != key
                ]
                if key and found and not any(words.goes_on[list(key)][1:] == 0):
                    known[key] = list(dict.fromkeys([*known.get(key, []), *found]))
        if not known:
            raise SimjaxError(
                f"{path}: the tokenizer knows none of these words as one word with a synonym"
            )
        synonyms = [ids for found in known.values() for ids in found]
        counts = np.asarray([len(found) for found in known.values()])
        lengths = np.asarray([len(ids) for ids in synonyms])
        key_lengths = np.asarray([len(key) for key in known])
        hashes = word_hashes(
            np.asarray([number for key in known for number in key]),
            np.cumsum(key_lengths) - key_lengths,
            key_lengths,
        )
        order = np.argsort(hashes)
        return cls(
            hashes=hashes[order],
            first=(np.cumsum(counts) - counts)[order],
            count=counts[order],
            start=np.cumsum(lengths) - lengths,
            length=lengths,
            tokens=np.asarray([number for ids in synonyms for number in ids], np.int32),
            digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        )

    def find(
        self, hashes: UInt64[np.ndarray, "P"], draws: Float[np.ndarray, "P"]
    ) -> tuple[Bool[np.ndarray, "P"], Int[np.ndarray, "P"]]:
        """Which words are in the table, and one of the synonyms of each.

        Args:
            hashes: Of the words.
            draws: From 0 to below 1, which choose among synonyms.
        """
        place = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        which = np.floor(draws * self.count[place]).astype(np.int64)
        return self.hashes[place] == hashes, self.first[place] + which


def word_hashes(
    tokens: Int[np.ndarray, "n"], start: Int[np.ndarray, "P"], length: Int[np.ndarray, "P"]
) -> UInt64[np.ndarray, "P"]:
    """64 bits of each run of tokens; the runs follow each other without gaps."""
    place = np.arange(len(tokens)) - np.repeat(start, length)
    with_place = mix(mix(tokens.astype(np.uint64)) + (place.astype(np.uint64) + 1) * _GOLDEN)
    return np.add.reduceat(with_place, start) if len(start) else np.zeros(0, np.uint64)
