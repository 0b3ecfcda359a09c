"""Packed batches in a global order that depends on the seed alone.

One element of the pipeline is one batch: which examples it holds follows from the seed and its
number, every process plans all of its blocks from text lengths, and assembles its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from simjax.data import token_store
from simjax.data.config import DataConfig
from simjax.data.identity import normalised, text_digest
from simjax.data.mixture import join
from simjax.data.order import BatchOrder
from simjax.data.packing import best_fit_decreasing, deal, pack
from simjax.data.paraphrases import ORDERS, check_tokenizer, joined_lengths, pack_pairs
from simjax.data.sources import Source, describe, prompted, read
from simjax.data.token_store import TokenStore
from simjax.errors import SimjaxError, UsageError
from simjax.types import NO_TEXT, Batch

if TYPE_CHECKING:
    import grain
    from transformers import PreTrainedTokenizerFast

ENDLESS = 2**31 - 1
"""Batches of a source: epochs follow each other without end."""


@dataclass(frozen=True)
class PackedBatch:
    """This process's blocks of a global batch, and figures of the whole of it."""

    batch: Batch
    """NumPy arrays."""
    examples: int
    """Examples of the global batch."""
    tokens: int
    """Real tokens of the global batch."""
    fill: float
    """Real tokens over computed ones, empty rows included, of the global batch."""


@dataclass(frozen=True)
class _Plan:
    """Where everything of a global batch goes."""

    examples: Int[np.ndarray, "K E"]
    lengths: Int[np.ndarray, "K T"]
    row: Int[np.ndarray, "K T"]
    column: Int[np.ndarray, "K T"]
    rows: int
    """Rows that the fullest block needs."""


class BatchSource:
    """Random access to packed batches: element `n` is this process's share of global batch `n`.

    Which examples those are, `BatchOrder` says: a permutation of each pass through the data, whose
    left-over after the last whole batch is dropped. The blocks of a batch do not depend on the
    number of processes, process `p` has the `p`-th run of them.
    """

    def __init__(
        self,
        store: TokenStore,
        config: DataConfig,
        *,
        guide: Float[np.ndarray, "ids G"] | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        """Check that the data set and the numbers fit each other, and choose the shapes.

        Args:
            store: The data set.
            config: How it is cut into batches.
            guide: A guide's unit vector for every text id, which batches then carry along.
            process_index: Number of this process.
            process_count: How many there are.

        Raises:
            SimjaxError: fewer examples than a batch, or no positives where they are needed.
            UsageError: the blocks do not divide by the processes.
        """
        self.store = store
        self.config = config
        self._guide = guide
        self.num_blocks = config.batch_size // config.block
        if self.num_blocks % process_count:
            raise UsageError(
                f"{self.num_blocks} blocks (data.batch_size / data.block_size) do not divide by "
                f"{process_count} processes"
            )
        share = self.num_blocks // process_count
        self._own = slice(process_index * share, (process_index + 1) * share)

        self.num_examples = len(store.examples)
        self.order = _make_order(store, config)
        """Which examples each batch holds."""
        self._check_sources()
        self.num_views: int
        self.num_positives: int
        if config.views == "dropout":
            self.num_views, self.num_positives = config.num_views, config.num_views - 1
        elif config.views == "paraphrases":
            self.num_views, self.num_positives = 2, 1
        else:
            self.num_views, self.num_positives = store.examples.shape[1], store.positives
        # A data set without scores leaves the compiled step without an argument that it ignores.
        self._scores = None if np.isnan(store.scores).all() else store.scores
        self.steps_per_epoch = self.order.steps_per_epoch
        """Batches that have as many examples as the sources."""
        self.ladder = self._choose_ladder()

    def __len__(self) -> int:
        return ENDLESS

    def _check_sources(self) -> None:
        """Every source has what its part of a batch needs."""
        config, store = self.config, self.store
        first = 0
        parts = zip(config.all_sources, store.sizes, self.order.needed, strict=True)
        for index, (source, size, needed) in enumerate(parts):
            with _keys_of(config, index):
                self._check_source(source, size, needed, first)
            first += size

    def _check_source(self, source: Source, size: int, needed: int, first: int) -> None:
        config, store = self.config, self.store
        name = describe(source, config.root_path)
        if config.views != "dropout" and (
            store.positives == 0 or store.examples[first, 1] == NO_TEXT
        ):
            raise SimjaxError(
                f"{name}: the examples have an anchor and no positive: name positive columns "
                "in data.source.positives, or set data.views to dropout"
            )
        if size < needed:
            part = "" if needed == config.batch_size else f", {needed} of them from here"
            raise SimjaxError(
                f"{name}: holds {size} examples, fewer than a batch of {config.batch_size} "
                f"needs{part}: lower data.batch_size"
                + (" or the weight of this source" if part else "")
            )

    def examples(self, n: int) -> Int[np.ndarray, "B"]:
        """The examples of global batch `n` in their shuffled order, counting from 0 on."""
        return self.order.examples(n)

    def __getitem__(self, n: int) -> PackedBatch:
        config, store = self.config, self.store
        plan = self._plan(int(n))
        rows = next(rung for rung in self.ladder if rung >= plan.rows)
        examples = plan.examples[self._own]
        texts = self._texts(examples)
        lengths, row, column = (x[self._own] for x in (plan.lengths, plan.row, plan.column))
        if config.views == "paraphrases":
            both = texts[..., ORDERS].reshape(*lengths.shape, 2)
            starts = store.offsets[both]
            block = pack_pairs(
                store.tokens,
                starts,
                store.lengths[both],
                row,
                column,
                rows=rows,
                row_length=config.row_length,
            )
        else:
            starts = store.offsets[texts].reshape(lengths.shape)
            block = pack(
                store.tokens, starts, lengths, row, column, rows=rows, row_length=config.row_length
            )
        ids = np.where(texts == NO_TEXT, NO_TEXT, store.text_ids[texts]).astype(np.int32)
        batch = Batch(
            block=block,
            ids=ids,
            labels=store.labels[examples].astype(np.int32),
            place=np.arange(self.num_blocks, dtype=np.int32)[self._own],
            scores=None if self._scores is None else self._scores[examples],
            guide=None if self._guide is None else _rows(self._guide, ids),
        )
        tokens = int(plan.lengths.sum())
        computed = self.num_blocks * rows * config.row_length
        return PackedBatch(batch, config.batch_size, tokens, tokens / computed)

    def _texts(self, examples: Int[np.ndarray, "*B"]) -> Int[np.ndarray, "*B V"]:
        """Text numbers of each view of each example."""
        if self.config.views == "dropout":
            return np.repeat(self.store.examples[examples][..., :1], self.num_views, axis=-1)
        # Of paraphrases there are two, whatever else an example has.
        return self.store.examples[examples][..., : self.num_views]

    def _lengths(self, texts: Int[np.ndarray, "*B V"]) -> Int[np.ndarray, "*B V"]:
        lengths = np.where(texts == NO_TEXT, 0, self.store.lengths[texts])
        return joined_lengths(lengths) if self.config.views == "paraphrases" else lengths

    def _plan(self, n: int) -> _Plan:
        """Deal and place batch `n` by the lengths of its texts."""
        examples = self.examples(n)
        lengths = self._lengths(self._texts(examples))
        dealt = deal(lengths.sum(axis=1), self.num_blocks, self.config.block)
        by_block = lengths[dealt].reshape(self.num_blocks, -1)
        placed = [best_fit_decreasing(block, self.config.row_length) for block in by_block]
        return _Plan(
            examples=examples[dealt],
            lengths=by_block,
            row=np.stack([placement.row for placement in placed]),
            column=np.stack([placement.column for placement in placed]),
            rows=max(placement.rows for placement in placed),
        )

    def _choose_ladder(self) -> tuple[int, ...]:
        """Rows that the blocks of a step may have, from plans of the first batches.

        Each entry is compiled once it is needed, so there are few. They lie close together over
        the range that the sample needs, then grow geometrically to what the longest examples of
        the data set could need.
        """
        config = self.config
        texts_per_batch = config.batch_size * self.num_views
        sample = min(64, max(4, 2**18 // texts_per_batch))
        needed = [self._plan(n).rows for n in range(sample)]
        longest = np.sort(self._lengths(self._texts(np.arange(self.num_examples))).sum(axis=1))
        # Any two rows that best fit leaves hold more than one row's tokens between them.
        worst = math.ceil(2 * int(longest[-config.block :].sum()) / config.row_length)
        return ladder(needed, min(worst, config.block * self.num_views))


def _rows(
    vectors: Float[np.ndarray, "ids G"], ids: Int[np.ndarray, "K E V"]
) -> Float[np.ndarray, "K E V G"]:
    """The vector of each id, zero of `NO_TEXT`."""
    there = (ids != NO_TEXT)[..., None]
    return np.where(there, vectors[np.maximum(ids, 0)], np.float32(0))


def _make_order(store: TokenStore, config: DataConfig) -> BatchOrder:
    weights = [source.weight for source in config.all_sources]
    texts = None
    if config.no_duplicates:
        read = {"dropout": 1, "paraphrases": 2, "columns": None}[config.views]
        examples = store.examples[:, :read]
        texts = np.where(examples == NO_TEXT, NO_TEXT, store.text_ids[examples])
    return BatchOrder(
        store.sizes,
        config.batch_size,
        config.seed,
        weights=None if None in weights else [weight or 0.0 for weight in weights],
        mixing=config.mixing,
        texts=texts,
    )


def ladder(needed: list[int], worst: int) -> tuple[int, ...]:
    """A short list of row numbers that is fine where it matters and reaches `worst`.

    Args:
        needed: rows that a sample of batches needs.
        worst: rows that no batch can exceed.
    """
    low, high = min(needed), max(needed)
    step = max(1, math.ceil((high - low) / 4))
    rungs = [*range(low, high, step), high]
    # Batches outside the sample stray a little from it more often than far.
    rungs.append(high + step)
    while rungs[-1] < worst:
        rungs.append(math.ceil(rungs[-1] * 1.25))
    return (*(rung for rung in rungs if rung < worst), worst)


def prepare(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerFast,
    *,
    progress: Callable[[int], None] | None = None,
) -> TokenStore:
    """The token store of a configuration: that of its source, or of its sources joined.

    Each source has a store of its own, built if the cache does not have it.

    Args:
        config: what to read, and how.
        tokenizer: makes the tokens.
        progress: called now and then with the number of examples tokenised so far.

    Raises:
        SimjaxError: see `token_store.build`.
        UsageError: the tokenizer does not join texts as the views need it.
    """
    if config.views == "paraphrases":
        check_tokenizer(tokenizer)
    stores: list[TokenStore] = []
    for index, source in enumerate(config.all_sources):
        done = sum(len(store.examples) for store in stores)
        with _keys_of(config, index):
            store = token_store.build(
                source,
                config.root_path,
                tokenizer,
                max_length=config.text_length,
                cache=config.cache_path,
                drop_duplicates=config.drop_duplicates,
                progress=None if progress is None else partial(_told, progress, done),
            )
        stores.append(store)
    return join(stores)


def _told(progress: Callable[[int], None], done: int, more: int) -> None:
    progress(done + more)


def texts(config: DataConfig) -> Iterator[str]:
    """All texts of a configuration's sources as they are tokenised, prompts included.

    Raises:
        SimjaxError: see `sources.read`.
    """
    for index, source in enumerate(config.all_sources):
        with _keys_of(config, index):
            for example in read(source, config.root_path):
                yield from prompted(source, example)


def distinct_texts(config: DataConfig, store: TokenStore) -> Iterator[str]:
    """A text for every id of a store of `prepare`, in their order: the first one, without prompt.

    Raises:
        SimjaxError: see `sources.read`; or the sources are not those of the store any more.
    """
    found = 0
    for index, source in enumerate(config.all_sources):
        with _keys_of(config, index):
            for example in read(source, config.root_path):
                for text in (example.anchor, *example.positives, *example.negatives):
                    if found == len(store.digests):
                        return
                    # Ids count first appearances, so the next new text is the next id's.
                    if text_digest(normalised(text)) == store.digests[found].tobytes():
                        found += 1
                        yield text
    if found < len(store.digests):
        raise SimjaxError("the texts have changed since they were tokenised; start again")


@contextmanager
def _keys_of(config: DataConfig, index: int) -> Iterator[None]:
    """Complaints about `data.source` name the source of the mixture that they are about."""
    try:
        yield
    except SimjaxError as error:
        if not config.sources:
            raise
        key = f"data.sources[{index}]"
        raise type(error)(re.sub(r"\bdata\.source\b", key, str(error))) from error


def batches(
    source: BatchSource, *, start: int = 0, stop: int | None = None, prefetch: int = 4
) -> grain.DatasetIterator[PackedBatch]:
    """Iterate over global batches `start` to `stop`, made ahead by threads.

    `get_state` and `set_state` of the iterator speak of the next batch's number alone
    (`{"next_index": n}`), whatever was made ahead, so a state is good for any number of processes.

    Args:
        source: the batches.
        start: the first one.
        stop: the one not to give any more; None goes on without end.
        prefetch: batches made ahead; 0 makes each when it is asked for.
    """
    import grain

    dataset = grain.MapDataset.source(source)
    if stop is not None:
        dataset = dataset.slice(slice(0, stop))
    options = grain.ReadOptions(num_threads=min(prefetch, 2), prefetch_buffer_size=prefetch)
    iterator = iter(dataset.to_iter_dataset(options))
    if start:
        iterator.set_state({"next_index": start})
    return iterator
