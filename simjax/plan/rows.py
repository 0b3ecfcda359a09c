"""How many packed rows the texts of a block fill, from a stated length or from the texts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from simjax.data.config import DataConfig
from simjax.data.packing import best_fit_decreasing, deal
from simjax.data.paraphrases import joined_lengths
from simjax.data.sources import prompted, read
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
        tokens: Mean number of tokens of a text.
        fill: Real tokens over computed ones.
        source: Where the lengths are from, in words.
    """

    rows: int
    views: int
    tokens: float
    fill: float
    source: str


def num_views(config: DataConfig) -> tuple[int, int]:
    """Texts of an example, and how many of them are positives."""
    if config.views == "dropout":
        return config.num_views, config.num_views - 1
    if config.views == "paraphrases":
        return 2, 1
    positives = max(max(1, len(source.positives)) for source in config.all_sources)
    negatives = max(len(source.negatives) for source in config.all_sources)
    return 1 + positives + negatives, positives


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
    views, _ = num_views(config)
    # Quantiles in place of draws: the mean is met, and nothing is random.
    count = _num_dealt(config) * config.block * views
    places = (np.arange(count) + 0.5) / count
    normal = np.asarray([NormalDist().inv_cdf(p) for p in places])
    lengths = _with_mean(np.exp(_SPREAD * normal), mean, config.max_length)
    lengths = np.random.default_rng(0).permutation(lengths)
    return _packed(config, lengths.reshape(-1, views), f"--tokens {mean:g}")


def longest(config: DataConfig) -> Rows:
    """Rows of texts that are all as long as they may be: more than any data takes."""
    views, _ = num_views(config)
    lengths = np.full((config.block, views), config.max_length)
    source = f"texts of data.max_length, {config.max_length} tokens: at most (or give --tokens)"
    return _packed(config, lengths, source)


def readable(config: DataConfig) -> bool:
    """Whether the first source is here."""
    source = config.all_sources[0]
    try:
        return next(iter(read(source, config.root_path)), None) is not None
    except (SimjaxError, OSError):
        return False


def measured(config: DataConfig, tokenizer: PreTrainedTokenizerFast) -> Rows | None:
    """Rows of the first examples of the first source; None if they are no pairs."""
    source = config.all_sources[0]
    examples = list(islice(read(source, config.root_path), _SAMPLE))
    texts = [list(prompted(source, example)) for example in examples]
    if config.views == "dropout":
        texts = [some[:1] * config.num_views for some in texts]
    views = max(map(len, texts), default=0)
    if views < 2:
        return None
    lengths = np.zeros((len(texts), views), np.int64)
    for row, some in zip(lengths, texts, strict=True):
        ids = tokenizer(some, truncation=True, max_length=config.text_length)["input_ids"]
        row[: len(some)] = [len(one) for one in ids]
    if config.views == "paraphrases":
        lengths = joined_lengths(lengths[:, :2])
    return _packed(config, lengths, f"the first {len(texts):,} examples of the data")


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


def _packed(config: DataConfig, lengths: Int[np.ndarray, "n V"], source: str) -> Rows:
    """Deals examples of these lengths to blocks, as the pipeline does, and packs them."""
    size, blocks = config.block, _num_dealt(config)
    examples = np.resize(np.arange(len(lengths)), blocks * size)
    lengths = lengths[examples]
    dealt = deal(lengths.sum(axis=1), blocks, size)
    by_block = lengths[dealt].reshape(blocks, -1)
    rows = max(best_fit_decreasing(block, config.row_length).rows for block in by_block)
    fill = by_block.sum() / (blocks * rows * config.row_length)
    real = lengths[lengths > 0]
    return Rows(rows, lengths.shape[1], float(real.mean()), float(fill), source)
