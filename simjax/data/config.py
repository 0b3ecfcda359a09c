"""What a run reads, and how it is cut into batches."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from simjax.data.augment import Change
from simjax.data.order import Mixing
from simjax.data.sources import Source
from simjax.errors import UsageError
from simjax.remote import check_local

_SHORTEST_PAIR = 5
"""Tokens of two texts of one token each, and special tokens in front, between and behind."""
_SHORTEST_TEXT = 3
"""Tokens of a text of one token, and special tokens in front and behind."""
LARGEST_BLOCK = 64
"""Of the blocks that are chosen by default: rows are as full as in larger ones (about 97 %)."""


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how it is cut into batches, blocks and rows."""

    source: Source = field(default_factory=Source)
    """Where the texts come from."""
    sources: tuple[Source, ...] = ()
    """Several of them, which are mixed by their weights; `source` is then left out."""
    mixing: Mixing = "one_source"
    """`one_source`: the examples of a batch are of one source, and sources take turns. `mixed`:
    every batch has examples of all."""
    no_duplicates: bool = False
    """Form batches in which no two examples share a text."""
    drop_duplicates: bool = False
    """Leave out examples of a source that repeat an earlier one, text by text, as texts are
    compared: without regard to case and white space."""
    root: str | None = None
    """Folder that `source.path` is relative to; by default the variable SIMJAX_DATA, else the
    current folder."""
    views: Literal["columns", "dropout", "single", "paraphrases", "reconstruction"] = "columns"
    """`columns`: the views of an example are its columns. `dropout`: its first text, `num_views`
    times, told apart by dropout and by what `augment` changes. `single`: its first text, once, for
    objectives that compare two encoders. `paraphrases`: anchor and first positive stand one behind
    the other in one row, and the other way round in the second view (SimBERT); a view's embedding
    is that of the text in front, from which the other one is learned (`objective.seq2seq`).
    `reconstruction`: its first text, twice in one row, for `objective.name: vae` (UniVAE)."""
    num_views: int = 2
    """Times that a text is encoded with `views: dropout`."""
    augment: tuple[Change, ...] = ()
    """What is changed of some of the views, one after the other: words of them, anew in each epoch,
    or their embeddings. Prompts count as words."""
    dropout_masks: Literal["own", "shared", "none"] = "own"
    """Every view is dropped out of by a mask of its `own`; the views of an example have one
    `shared` mask, token by token (they are packed at the same places of rows that share their
    masks); or `none` is, whatever rates the model has."""
    batch_size: int = 512
    """Examples of a global batch."""
    block_size: int | None = None
    """Examples of a block, the unit that micro-batches and devices share out; by default as many
    up to 64 as divide the batch. Part of a run's identity, because dropout follows the blocks."""
    row_length: int = 128
    """Tokens of a packed row; at least twice `max_length` with `views: reconstruction`."""
    max_length: int = 128
    """Tokens of a text, special tokens included; longer texts are cut. Of two paraphrases one
    behind the other, each of which is cut at half of it."""
    seed: int = 0
    """Seed of the order of the examples, and of what is changed of their words."""
    cache: str | None = None
    """Folder of token stores; by default `simjax` in the user's cache folder."""
    prefetch: int = 4
    """Batches made ahead of the step that needs them."""

    def __post_init__(self) -> None:
        if self.sources and self.source != Source():
            raise UsageError(
                "data.sources is given and data.source is as well: put all into the list"
            )
        if not self.sources and self.source.weight is not None:
            raise UsageError("data.source.weight is given: one source has no share; leave it out")
        weights = [source.weight for source in self.sources]
        if None in weights and any(weights):
            raise UsageError(
                f"data.sources[{weights.index(None)}].weight is missing: give all sources one, or "
                "none, and they count by their sizes"
            )
        check_local("data.root", self.root, "give whole URLs as data.source.path")
        check_local("data.cache", self.cache, "stores are memory-mapped")
        if self.seed < 0:
            raise UsageError(f"data.seed is {self.seed}: it must not be negative")
        for key in ("num_views", "batch_size", "block_size", "row_length", "max_length"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UsageError(f"data.{key} is {value}: it must be at least 1")
        if self.prefetch < 0:
            raise UsageError(f"data.prefetch is {self.prefetch}: it must not be negative")
        if self.views == "dropout" and self.num_views < 2:
            raise UsageError("data.num_views is 1: dropout views need at least 2")
        if self.views == "paraphrases" and self.max_length < _SHORTEST_PAIR:
            raise UsageError(
                f"data.max_length is {self.max_length} and data.views is paraphrases: two texts "
                f"take {_SHORTEST_PAIR} tokens at least"
            )
        self._check_segments()
        if self.batch_size % self.block:
            raise UsageError(
                f"data.batch_size {self.batch_size} is not a multiple of data.block_size "
                f"{self.block_size}; leave the latter out, or give a divisor"
            )
        times = 2 if self.views == "reconstruction" else 1
        if self.row_length < times * self.max_length:
            twice, fit = ("twice ", "fit twice") if times == 2 else ("", "fit")
            raise UsageError(
                f"data.row_length {self.row_length} is below {twice}data.max_length "
                f"{self.max_length}: a text must {fit} into a row"
            )

    def _check_segments(self) -> None:
        """What does not go with views that are two texts in a row."""
        if self.views not in ("paraphrases", "reconstruction"):
            return
        if self.augment or self.dropout_masks == "shared":
            key = "data.augment" if self.augment else "data.dropout_masks shared"
            masked = self.views == "paraphrases"
            raise UsageError(
                f"{key} does not go with data.views {self.views}, whose views are two texts each; "
                + (
                    "words in front are masked by objective.seq2seq.corrupted"
                    if masked
                    else "leave it out"
                )
            )
        if self.views == "reconstruction" and self.max_length < _SHORTEST_TEXT:
            raise UsageError(
                f"data.max_length is {self.max_length} and data.views is reconstruction: a text "
                f"takes {_SHORTEST_TEXT} tokens at least"
            )

    @property
    def block(self) -> int:
        """Examples of a block."""
        if self.block_size is not None:
            return self.block_size
        return max(size for size in range(1, LARGEST_BLOCK + 1) if self.batch_size % size == 0)

    @property
    def text_length(self) -> int:
        """Tokens that a text is cut at by itself, special tokens included."""
        return (self.max_length + 1) // 2 if self.views == "paraphrases" else self.max_length

    @property
    def all_sources(self) -> tuple[Source, ...]:
        """The source, or those that are mixed."""
        return self.sources or (self.source,)

    @property
    def root_path(self) -> Path | None:
        """The folder that source paths are relative to, None for the current one."""
        root = self.root or os.environ.get("SIMJAX_DATA")
        check_local("SIMJAX_DATA", root, "give whole URLs as data.source.path")
        return Path(root).expanduser() if root else None

    @property
    def cache_path(self) -> Path:
        """The folder of token stores."""
        if self.cache:
            return Path(self.cache).expanduser()
        home = os.environ.get("XDG_CACHE_HOME")
        return (Path(home) if home else Path.home() / ".cache") / "simjax"
