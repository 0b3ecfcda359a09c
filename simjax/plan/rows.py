"""How many packed rows the texts of a block fill, from a stated length or from the texts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from simjax.data.config import DataConfig
from simjax.data.packing import best_fit_blocks, deal
from simjax.data.paraphrases import joined_lengths
from simjax.data.sources import Source, describe, prompted, read
from simjax.errors import SimjaxError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SPREAD = 0.5
"""Standard deviation of the logarithm of a text's length, where only a mean is known."""
_FEWEST = 3
"""Tokens of a text: one, between two special ones."""
_DEALT = 256
"""Blocks that are packed to see how many rows the fullest one needs."""
_SAMPLE = 4096
"""Examples of the data whose lengths are taken."""


@dataclass(frozen=True)
class Rows:
    """The packed rows of a block.

    Attributes:
        rows: Of each block, as many as the fullest needs.
        views: Texts of an example.
        positives: How many of them are positives.
        tokens: Mean number of tokens of a text.
        fill: Real tokens over computed ones.
        source: Where the lengths are from, in words.
    """

    rows: int
    views: int
    positives: int
    tokens: float
    fill: float
    source: str


def num_views(config: DataConfig) -> tuple[int, int]:
    """Texts of an example, and how many of them are positives.

    As the data has them where it is here, since columns may go by their usual names and hold lists;
    otherwise as the recipe names them.
    """
    if config.views == "dropout":
        return config.num_views, config.num_views - 1
    if config.views == "paraphrases":
        return 2, 1
    found = [_roles(source, config.root_path) for source in config.all_sources]
    positives, negatives = (max(counts) for counts in zip(*found, strict=True))
    return 1 + positives + negatives, positives


def _roles(source: Source, root: Path | None) -> tuple[int, int]:
    """Positives and hard negatives of an example, of those that have the most."""
    try:
        examples = list(islice(read(source, root), _SAMPLE))
    except (SimjaxError, OSError):
        examples = []
    positives = max((len(example.positives) for example in examples), default=0)
    negatives = max((len(example.negatives) for example in examples), default=0)
    if not examples:
        positives, negatives = len(source.positives), len(source.negatives)
    return max(1, positives), negatives


def stated(config: DataConfig, mean: float) -> Rows:
    """Rows of texts whose lengths are log-normal about a mean, cut at `data.max_length`.

    Two paraphrases in a row are one text here.

    Raises:
        UsageError: No text can be so long, or so short.
    """
    if not _FEWEST <= mean <= config.max_length:
        raise UsageError(
            f"--tokens {mean:g}: texts have {_FEWEST} to {config.max_length} tokens "
            "(data.max_length)"
        )
    views, positives = num_views(config)
    # Quantiles in place of draws: the mean is met, and nothing is random.
    count = _num_dealt(config) * config.block * views
    places = (np.arange(count) + 0.5) / count
    normal = np.asarray([NormalDist().inv_cdf(p) for p in places])
    lengths = _with_mean(np.exp(_SPREAD * normal), mean, config.max_length)
    lengths = np.random.default_rng(0).permutation(lengths)
    return _packed(config, lengths.reshape(-1, views), positives, f"--tokens {mean:g}")


def longest(config: DataConfig, reason: str) -> Rows:
    """Rows of texts that are all as long as they may be: more than any data takes.

    Args:
        config: The data.
        reason: Why nothing better is known.
    """
    views, positives = num_views(config)
    lengths = np.full((config.block, views), config.max_length)
    source = (
        f"texts of data.max_length, {config.max_length} tokens: at most, since {reason} (or give "
        "--tokens)"
    )
    return _packed(config, lengths, positives, source)


def readable(config: DataConfig) -> bool:
    """Whether every source is here."""
    try:
        firsts = [next(iter(read(one, config.root_path)), None) for one in config.all_sources]
    except (SimjaxError, OSError):
        return False
    return None not in firsts


def measured(config: DataConfig, tokenizer: PreTrainedTokenizerFast) -> Rows:
    """Rows of the first examples of each source.

    Of sources that take turns, those of the one that needs the most; of sources that share every
    batch, those of a batch that has their weights, or as many of each where they have none.

    Raises:
        SimjaxError: The data is faulty, or has no positives where they are needed.
    """
    views, positives = num_views(config)
    parts = [_lengths(config, source, tokenizer, views, positives) for source in config.all_sources]
    told = f"the first {max(map(len, parts)):,} examples of the data"
    if len(parts) == 1:
        return _packed(config, parts[0], positives, told)
    if config.mixing == "one_source":
        told = f"{told}'s source that needs the most rows"
        found = [_packed(config, part, positives, told) for part in parts]
        return max(found, key=lambda rows: rows.rows)
    weights = np.asarray([source.weight or 1.0 for source in config.all_sources])
    counts = np.rint(_num_dealt(config) * config.block * weights / weights.sum()).astype(int)
    mixed = [
        np.resize(part, (max(1, count), views)) for part, count in zip(parts, counts, strict=True)
    ]
    return _packed(config, np.concatenate(mixed), positives, f"{told}'s sources, mixed")


def _lengths(
    config: DataConfig,
    source: Source,
    tokenizer: PreTrainedTokenizerFast,
    views: int,
    positives: int,
) -> Int[np.ndarray, "n V"]:
    """Tokens of the views of a source's first examples, 0 where they lack one."""
    examples = list(islice(read(source, config.root_path), _SAMPLE))
    paired = config.views in ("columns", "paraphrases")
    if paired and not any(example.positives for example in examples):
        raise SimjaxError(
            f"{describe(source, config.root_path)}: the examples have an anchor and no positive: "
            "name positive columns in data.source.positives, or set data.views to dropout"
        )
    lengths = np.zeros((len(examples), views), np.int64)
    for row, example in zip(lengths, examples, strict=True):
        texts = list(prompted(source, example))
        if config.views != "columns":
            texts = texts[: 1 if config.views == "dropout" else 2]
        ids = tokenizer(texts, truncation=True, max_length=config.text_length)["input_ids"]
        tokens = [len(one) for one in ids]
        if config.views == "dropout":
            row[:] = tokens[0]
            continue
        own = 1 + len(example.positives)
        row[:own] = tokens[:own]
        row[1 + positives : 1 + positives + len(tokens) - own] = tokens[own:]
    return joined_lengths(lengths) if config.views == "paraphrases" else lengths


def _with_mean(spread: Float[np.ndarray, "n"], mean: float, most: int) -> Int[np.ndarray, "n"]:
    """Multiples of ``spread`` in whole tokens with a mean, none above ``most``."""
    low, high = 0.0, 64.0 * most
    for _ in range(60):
        middle = (low + high) / 2
        lengths = np.clip(np.rint(middle * spread), _FEWEST, most)
        low, high = (middle, high) if lengths.mean() < mean else (low, middle)
    return lengths.astype(np.int64)


def _num_dealt(config: DataConfig) -> int:
    """Blocks that are packed: of a batch, or as many as tell."""
    return min(config.batch_size // config.block, _DEALT)


def _packed(
    config: DataConfig, lengths: Int[np.ndarray, "n V"], positives: int, source: str
) -> Rows:
    """Deals examples of these lengths to blocks, as the pipeline does, and packs them."""
    size, blocks = config.block, _num_dealt(config)
    examples = np.resize(np.arange(len(lengths)), blocks * size)
    lengths = lengths[examples]
    dealt = deal(lengths.sum(axis=1), blocks, size)
    by_block = lengths[dealt].reshape(blocks, -1)
    groups = lengths.shape[1] if config.dropout_masks == "shared" else 1
    rooms = by_block.reshape(blocks, -1, groups).max(axis=2)
    rows = groups * best_fit_blocks(rooms, config.row_length).rows
    fill = by_block.sum() / (blocks * rows * config.row_length)
    real = lengths[lengths > 0]
    return Rows(rows, lengths.shape[1], positives, float(real.mean()), float(fill), source)
