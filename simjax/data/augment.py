"""What is changed of the views of a text: in its words when a batch is made, or in its embeddings.

Words are chosen at a rate: of `n` words `rate * n`, rounded up or down at random so that the mean
is met. Special tokens, such as those at the ends of a text, are never chosen, and at least one
word stays. What a word is, `words` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from simjax.errors import UsageError

Which: TypeAlias = Literal["positives", "all", "anchor"]
"""Which views of an example are changed: the first is the anchor; `positives` are the others but
for hard negatives."""
Unit: TypeAlias = Literal["token", "word"]


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Words are cut off at both ends, and what lies between them stays.

    Attributes:
        rate: Share of the words that is cut off.
        views: Of which views.
    """

    kind: Literal["crop"] = "crop"
    rate: float = 0.1
    views: Which = "positives"

    def __post_init__(self) -> None:
        _check_rate(self.kind, self.rate)


@dataclass(frozen=True, kw_only=True)
class Delete:
    """Words are left out, wherever they stand.

    Attributes:
        rate: Share of the words that is left out.
        words: So many words in place of a share.
        views: Of which views.
    """

    kind: Literal["delete"] = "delete"
    rate: float = 0.1
    words: int | None = None
    views: Which = "positives"

    def __post_init__(self) -> None:
        _check_rate(self.kind, self.rate)
        _check_words(self.kind, self.words)


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """Tokens are repeated where they stand (ESimCSE: Wu et al. 2022, arXiv 2109.04380, 3.2).

    Of `n` tokens k are, k being drawn evenly from 0 to max(2, floor(rate * n)); fewer where the
    text would grow longer than `data.max_length`.

    Attributes:
        rate: Largest share that is repeated.
        unit: Repeat tokens, as ESimCSE does, or whole words.
        views: Of which views.
    """

    kind: Literal["repeat"] = "repeat"
    rate: float = 0.32
    unit: Unit = "token"
    views: Which = "positives"

    def __post_init__(self) -> None:
        _check_rate(self.kind, self.rate)


@dataclass(frozen=True, kw_only=True)
class Synonyms:
    """Words give way to others of a table.

    Attributes:
        path: The table, relative to `data.root`: on each line a word and, behind tabs, what may
            stand in its place.
        rate: Share of the words that are in the table.
        words: So many words in place of a share.
        views: Of which views.
    """

    kind: Literal["synonyms"] = "synonyms"
    path: str
    rate: float = 0.1
    words: int | None = None
    views: Which = "positives"

    def __post_init__(self) -> None:
        _check_rate(self.kind, self.rate)
        _check_words(self.kind, self.words)


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Tokens give way to the mask token, or to any other (Devlin et al. 2019, arXiv 1810.04805).

    Attributes:
        rate: Share of the tokens that are chosen.
        random: Share of these that become any token but a special one.
        kept: Share of these that stay as they are. The rest become the mask token.
        unit: Choose single tokens, or whole words.
        views: Of which views.
    """

    kind: Literal["mask"] = "mask"
    rate: float = 0.15
    random: float = 0.1
    kept: float = 0.1
    unit: Unit = "token"
    views: Which = "positives"

    def __post_init__(self) -> None:
        _check_rate(self.kind, self.rate)
        if min(self.random, self.kept) < 0 or self.random + self.kept > 1:
            raise UsageError(
                f"random of a mask view is {self.random} and its kept {self.kept}: give shares "
                "that make at most 1 together"
            )


@dataclass(frozen=True, kw_only=True)
class Shuffle:
    """Tokens change places, every order being as likely (ConSERT: Yan et al. 2021, 2105.11741).

    Attributes:
        unit: Single tokens, as ConSERT does, or whole words.
        views: Of which views.
    """

    kind: Literal["shuffle"] = "shuffle"
    unit: Unit = "token"
    views: Which = "positives"


@dataclass(frozen=True, kw_only=True)
class FeatureCutoff:
    """Some features of all embeddings of a text are zero as they enter the first layer (ConSERT).

    Attributes:
        rate: Share of the features, rounded down.
        views: Of which views.
    """

    kind: Literal["feature_cutoff"] = "feature_cutoff"
    rate: float = 0.2
    views: Which = "positives"

    def __post_init__(self) -> None:
        _check_rate(self.kind, self.rate)


@dataclass(frozen=True, kw_only=True)
class TokenCutoff:
    """The embeddings of some tokens are zero as they enter the first layer (ConSERT).

    As there, any token may be chosen, those at the ends of a text too.

    Attributes:
        rate: Share of the tokens, rounded down.
        views: Of which views.
    """

    kind: Literal["token_cutoff"] = "token_cutoff"
    rate: float = 0.15
    views: Which = "positives"

    def __post_init__(self) -> None:
        _check_rate(self.kind, self.rate)


TextChange: TypeAlias = Crop | Delete | Repeat | Synonyms | Mask | Shuffle
"""Changes of the tokens, made when a batch is."""
Cutoff: TypeAlias = FeatureCutoff | TokenCutoff
"""Changes of the embeddings, made by the encoder."""
Change: TypeAlias = Crop | Delete | Repeat | Synonyms | Mask | Shuffle | FeatureCutoff | TokenCutoff


def changed_views(which: Which, num_views: int, num_positives: int) -> tuple[bool, ...]:
    """Of each view of an example, whether it is changed."""
    if which == "all":
        return (True,) * num_views
    if which == "anchor":
        return tuple(view == 0 for view in range(num_views))
    return tuple(1 <= view <= num_positives for view in range(num_views))


def _check_rate(kind: str, rate: float) -> None:
    if not 0 < rate < 1:
        raise UsageError(f"rate of a {kind} view is {rate}: give a number between 0 and 1")


def _check_words(kind: str, words: int | None) -> None:
    if words is not None and words < 1:
        raise UsageError(f"words of a {kind} view is {words}: give at least 1, or null")
