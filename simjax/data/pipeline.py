"""Packed batches in a global order that depends on the seed alone.

One element of the pipeline is one batch: which examples it holds follows from the seed and its
number, every process plans all of its blocks from text lengths, and assembles its own. Where words
are changed every process changes those of the whole batch, since blocks go by the lengths that come
of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from simjax.data.chinese_words import ChineseWords
from simjax.data.config import DataConfig
from simjax.data.corpus import keys_of
from simjax.data.disk_arrays import gather, release, slices
from simjax.data.order import WINDOW, BatchOrder
from simjax.data.packing import Tokens, best_fit_blocks, deal, ladder, pack
from simjax.data.paraphrases import ORDERS, joined_lengths, pack_pairs, pair_lengths
from simjax.data.shuffle import permute
from simjax.data.sources import Source, describe
from simjax.data.token_store import TokenStore
from simjax.data.views import Augmenter
from simjax.errors import SimjaxError, UsageError
from simjax.types import NO_TEXT, Batch, Block

if TYPE_CHECKING:
    import grain

ENDLESS = 2**31 - 1
"""Batches of a source: epochs follow each other without end."""
_ROWS = 1 << 17
"""Examples that are looked at together."""
_SAMPLE = 1 << 18
"""Texts of the batches that the numbers of rows are chosen by."""
_IN_BLOCKS = 2**32 - 1
"""Of the seed by which the examples of blocks are put in order; no source has this number."""
_TWICE = np.asarray([[0, 0]])
"""For the one view of a reconstruction, which text stands in front, and which behind."""


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
    tokens: Tokens
    starts: Int[np.ndarray, "K T"]
    """Where the tokens of each text begin."""
    lengths: Int[np.ndarray, "K T"]
    row: Int[np.ndarray, "K T"]
    """In its group of rows, where groups have the same dropout masks."""
    column: Int[np.ndarray, "K T"]
    rows: int
    """Rows that the fullest block needs, in all groups together."""


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
        augmenter: Augmenter | None = None,
        guide: Float[np.ndarray, "ids G"] | None = None,
        words: ChineseWords | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        """Check that the data set and the numbers fit each other, and choose the shapes.

        Args:
            store: The data set.
            config: How it is cut into batches.
            augmenter: Changes the words of the views; see `views.make_augmenter`.
            guide: A guide's unit vector for every text id, which batches then carry along.
            words: Finds the words of paraphrases, which batches then tell.
            process_index: Number of this process.
            process_count: How many there are.

        Raises:
            SimjaxError: fewer examples than a batch, or no positives where they are needed.
            UsageError: the blocks do not divide by the processes.
        """
        self.store = store
        self.config = config
        self._augmenter = augmenter
        self._guide = guide
        self._words = words
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
        elif config.views in ("single", "reconstruction"):
            self.num_views, self.num_positives = 1, 0
        elif config.views == "paraphrases":
            self.num_views, self.num_positives = 2, 1
        else:
            self.num_views, self.num_positives = store.examples.shape[1], store.positives
        self._groups = self.num_views if config.dropout_masks == "shared" else 1
        # A data set without scores leaves the compiled step without an argument that it ignores.
        self._scores = store.scores if _any_score(store.scores) else None
        self.steps_per_epoch = self.order.steps_per_epoch
        """Batches that have as many examples as the sources."""
        self.ladder, self.foreseen = self._choose_ladder()
        """Rows that the blocks of a step may have, and the most that a sample of batches needs."""

    def __len__(self) -> int:
        return ENDLESS

    @property
    def synonyms(self) -> list[str]:
        """A digest of each table that words of views are replaced by."""
        return [] if self._augmenter is None else self._augmenter.digests

    def _check_sources(self) -> None:
        """Every source has what its part of a batch needs."""
        config, store = self.config, self.store
        first = 0
        parts = zip(config.all_sources, store.sizes, self.order.needed, strict=True)
        for index, (source, size, needed) in enumerate(parts):
            with keys_of(config, index):
                self._check_source(source, size, needed, first)
            first += size

    def _check_source(self, source: Source, size: int, needed: int, first: int) -> None:
        config, store = self.config, self.store
        name = describe(source, config.root_path)
        if config.views in ("columns", "paraphrases") and (
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
        block = self._pack(plan, texts, rows)
        ids = _ids(store, texts)
        batch = Batch(
            block=block,
            ids=ids,
            labels=gather(store.labels, examples).astype(np.int32),
            place=np.arange(self.num_blocks, dtype=np.int32)[self._own],
            scores=None if self._scores is None else gather(self._scores, examples),
            guide=None if self._guide is None else _rows(self._guide, ids),
        )
        tokens = int(plan.lengths.sum())
        computed = self.num_blocks * rows * config.row_length
        return PackedBatch(batch, config.batch_size, tokens, tokens / computed)

    def _pack(self, plan: _Plan, texts: Int[np.ndarray, "K E V"], rows: int) -> Block:
        """This process's blocks."""
        store, row, column = self.store, plan.row[self._own], plan.column[self._own]
        if self._groups > 1:
            row = row + np.arange(row.shape[1]) % self.num_views * (rows // self._groups)
        shape = {"rows": rows, "row_length": self.config.row_length}
        if self.config.views in ("paraphrases", "reconstruction"):
            whole = self.config.views == "reconstruction"
            orders = _TWICE if whole else ORDERS
            both = texts[..., orders].reshape(*row.shape, 2)
            there = (both != NO_TEXT).all(axis=-1, keepdims=True)
            lengths = np.where(there, store.lengths(np.maximum(both, 0)), 0)
            starts = gather(store.offsets, np.maximum(both, 0))
            block = pack_pairs(store.tokens, starts, lengths, row, column, **shape, whole=whole)
            words = self._words
            return block if words is None else replace(block, goes_on=words.goes_on(block))
        starts, lengths = plan.starts[self._own], plan.lengths[self._own]
        return pack(plan.tokens, starts, lengths, row, column, **shape)

    def _texts(self, examples: Int[np.ndarray, "*B"]) -> Int[np.ndarray, "*B V"]:
        """Text numbers of each view of each example."""
        texts = gather(self.store.examples, examples)
        if self.config.views in ("dropout", "single", "reconstruction"):
            return np.repeat(texts[..., :1], self.num_views, axis=-1)
        # Of paraphrases there are two, whatever else an example has.
        return texts[..., : self.num_views]

    def _lengths(self, texts: Int[np.ndarray, "*B V"]) -> Int[np.ndarray, "*B V"]:
        lengths = np.where(texts == NO_TEXT, 0, self.store.lengths(np.maximum(texts, 0)))
        if self.config.views == "reconstruction":
            return pair_lengths(lengths[..., _TWICE], whole=True)
        return joined_lengths(lengths) if self.config.views == "paraphrases" else lengths

    def _plan(self, n: int) -> _Plan:
        """Deal and place batch `n` by the lengths of its texts."""
        examples = self.examples(n)
        store, texts = self.store, self._texts(examples)
        tokens, lengths = store.tokens, self._lengths(texts)
        starts = gather(store.offsets, np.maximum(texts, 0))
        if self._augmenter is not None:
            views = self._augmenter(n, examples, tokens, starts, lengths, self.num_positives)
            tokens, starts, lengths = views
        dealt = deal(lengths.sum(axis=1), self.num_blocks, self.config.block)
        # Not by length: neighbours in a block may be what an objective compares.
        size = self.config.block
        dealt = dealt[:, permute(np.arange(size), size, (self.config.seed, n, _IN_BLOCKS))]
        by_block = lengths[dealt].reshape(self.num_blocks, -1)
        # Views with the same masks are placed alike: as much room for each as for the longest.
        rooms = by_block.reshape(self.num_blocks, -1, self._groups).max(axis=2)
        placed = best_fit_blocks(rooms, self.config.row_length)
        return _Plan(
            examples=examples[dealt],
            tokens=tokens,
            starts=starts[dealt].reshape(by_block.shape),
            lengths=by_block,
            row=np.repeat(placed.row, self._groups, axis=1),
            column=np.repeat(placed.column, self._groups, axis=1),
            rows=self._groups * placed.rows,
        )

    def _choose_ladder(self) -> tuple[tuple[int, ...], int]:
        """Rows that the blocks of a step may have, and the most that plans of a sample need.

        Each entry is compiled once it is needed, so there are few. They lie close together over
        the range that the sample needs, then grow geometrically to what the longest examples of
        the data set could need.
        """
        config, groups = self.config, self._groups
        texts_per_batch = config.batch_size * self.num_views
        sample = min(64, max(4, _SAMPLE // texts_per_batch))
        # Of few batches, a source with a small share may have none, and needs rows of its own.
        firsts = {self.order.source_of(n): n for n in reversed(range(WINDOW))}
        needed = [self._plan(n).rows // groups for n in {*range(sample), *firsts.values()}]
        longest = np.zeros(0, np.int64)
        for run in slices(self.num_examples, _ROWS):
            lengths = self._lengths(self._texts(np.arange(run.start, run.stop)))
            if self._augmenter is not None:
                lengths = self._augmenter.longest(lengths)
            rooms = lengths.reshape(len(lengths), -1, groups).max(axis=2).sum(axis=1)
            longest = np.sort(np.append(longest, rooms))[-config.block :]
        # Any two rows that best fit leaves hold more than one row's tokens between them.
        worst = math.ceil(2 * int(longest.sum()) / config.row_length)
        rungs = ladder(needed, min(worst, config.block * self.num_views // groups))
        return tuple(groups * rung for rung in rungs), groups * max(needed)


def _rows(
    vectors: Float[np.ndarray, "ids G"], ids: Int[np.ndarray, "K E V"]
) -> Float[np.ndarray, "K E V G"]:
    """The vector of each id, zero of `NO_TEXT`."""
    there = (ids != NO_TEXT)[..., None]
    return np.where(there, gather(vectors, np.maximum(ids, 0)), np.float32(0))


def _ids(store: TokenStore, texts: Int[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
    """Text ids of texts, `NO_TEXT` of `NO_TEXT`."""
    ids = gather(store.text_ids, np.maximum(texts, 0))
    return np.where(texts == NO_TEXT, NO_TEXT, ids).astype(np.int32)


def _any_score(scores: Float[np.ndarray, "N"]) -> bool:
    for run in slices(len(scores), _ROWS):
        found = not np.isnan(scores[run]).all()
        release(scores)
        if found:
            return True
    return False


def _make_order(store: TokenStore, config: DataConfig) -> BatchOrder:
    weights = [source.weight for source in config.all_sources]
    texts = None
    if config.no_duplicates:
        read = {"columns": None, "paraphrases": 2}.get(config.views, 1)
        texts = _ids(store, store.examples[:, :read])
    return BatchOrder(
        store.sizes,
        config.batch_size,
        config.seed,
        weights=None if None in weights else [weight or 0.0 for weight in weights],
        mixing=config.mixing,
        texts=texts,
    )


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
