"""Packed batches in a global order that depends on the seed alone.

One element of the pipeline is one batch: which examples it holds follows from the seed and its
number, every process plans all of its blocks from text lengths, and assembles its own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Int

from simjax.data import token_store
from simjax.data.packing import best_fit_decreasing, deal, pack
from simjax.data.shuffle import permute
from simjax.data.sources import Source, describe
from simjax.data.token_store import TokenStore
from simjax.errors import SimjaxError, UsageError
from simjax.types import NO_TEXT, Batch

if TYPE_CHECKING:
    import grain
    from transformers import PreTrainedTokenizerFast

ENDLESS = 2**31 - 1
"""Batches of a source: epochs follow each other without end."""

LARGEST_BLOCK = 64
"""Of the blocks that are chosen by default: rows are as full as in larger ones (about 97 %)."""


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how it is cut into batches, blocks and rows."""

    source: Source = field(default_factory=Source)
    """Where the texts come from."""
    root: str | None = None
    """Folder that `source.path` is relative to; by default the variable SIMJAX_DATA, else the
    current folder."""
    views: Literal["columns", "dropout"] = "columns"
    """`columns`: the views of an example are its columns. `dropout`: its first text, `num_views`
    times, told apart by dropout alone."""
    num_views: int = 2
    """Times that a text is encoded with `views: dropout`."""
    batch_size: int = 512
    """Examples of a global batch."""
    block_size: int | None = None
    """Examples of a block, the unit that micro-batches and devices share out; by default as many
    up to 64 as divide the batch. Part of a run's identity, because dropout follows the blocks."""
    row_length: int = 128
    """Tokens of a packed row."""
    max_length: int = 128
    """Tokens of a text, special tokens included; longer texts are cut."""
    seed: int = 0
    """Seed of the order of the examples."""
    cache: str | None = None
    """Folder of token stores; by default `simjax` in the user's cache folder."""
    prefetch: int = 4
    """Batches made ahead of the step that needs them."""

    def __post_init__(self) -> None:
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
        if self.batch_size % self.block:
            raise UsageError(
                f"data.batch_size {self.batch_size} is not a multiple of data.block_size "
                f"{self.block_size}; leave the latter out, or give a divisor"
            )
        if self.row_length < self.max_length:
            raise UsageError(
                f"data.row_length {self.row_length} is below data.max_length {self.max_length}: "
                "a text must fit into a row"
            )

    @property
    def block(self) -> int:
        """Examples of a block."""
        if self.block_size is not None:
            return self.block_size
        return max(size for size in range(1, LARGEST_BLOCK + 1) if self.batch_size % size == 0)

    @property
    def root_path(self) -> Path | None:
        """The folder that source paths are relative to, None for the current one."""
        root = self.root or os.environ.get("SIMJAX_DATA")
        return Path(root).expanduser() if root else None

    @property
    def cache_path(self) -> Path:
        """The folder of token stores."""
        if self.cache:
            return Path(self.cache).expanduser()
        home = os.environ.get("XDG_CACHE_HOME")
        return (Path(home) if home else Path.home() / ".cache") / "simjax"


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

    The order of examples is a pseudo-random permutation of each epoch; what is left of an epoch
    after its last whole batch is dropped. The blocks of a batch do not depend on the number of
    processes, process `p` has the `p`-th run of them.
    """

    def __init__(
        self,
        store: TokenStore,
        config: DataConfig,
        *,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        """Check that the data set and the numbers fit each other, and choose the shapes.

        Raises:
            SimjaxError: fewer examples than a batch, or no positives where they are needed.
            UsageError: the blocks do not divide by the processes.
        """
        self.store = store
        self.config = config
        self.num_blocks = config.batch_size // config.block
        if self.num_blocks % process_count:
            raise UsageError(
                f"{self.num_blocks} blocks (data.batch_size / data.block_size) do not divide by "
                f"{process_count} processes"
            )
        share = self.num_blocks // process_count
        self._own = slice(process_index * share, (process_index + 1) * share)

        self.num_examples = len(store.examples)
        if self.num_examples < config.batch_size:
            raise SimjaxError(
                f"{describe(config.source, config.root_path)}: holds {self.num_examples} examples, "
                f"fewer than a batch of {config.batch_size}: lower data.batch_size"
            )
        if config.views == "columns" and store.positives == 0:
            raise SimjaxError(
                "the examples have an anchor and no positive: name positive columns in "
                "data.source.positives, or set data.views to dropout"
            )
        self.num_views: int
        self.num_positives: int
        if config.views == "dropout":
            self.num_views, self.num_positives = config.num_views, config.num_views - 1
        else:
            self.num_views, self.num_positives = store.examples.shape[1], store.positives
        # A data set without scores leaves the compiled step without an argument that it ignores.
        self._scores = None if np.isnan(store.scores).all() else store.scores
        self.steps_per_epoch = self.num_examples // config.batch_size
        self.ladder = self._choose_ladder()

    def __len__(self) -> int:
        return ENDLESS

    def examples(self, n: int) -> Int[np.ndarray, "B"]:
        """The examples of global batch `n` in their shuffled order, counting from 0 on."""
        epoch, step = divmod(n, self.steps_per_epoch)
        size = self.config.batch_size
        places = np.arange(step * size, (step + 1) * size)
        return permute(places, self.num_examples, (self.config.seed, epoch))

    def __getitem__(self, n: int) -> PackedBatch:
        config, store = self.config, self.store
        plan = self._plan(int(n))
        rows = next(rung for rung in self.ladder if rung >= plan.rows)
        examples = plan.examples[self._own]
        texts = self._texts(examples)
        lengths = plan.lengths[self._own]
        block = pack(
            store.tokens,
            store.offsets[texts].reshape(lengths.shape),
            lengths,
            plan.row[self._own],
            plan.column[self._own],
            rows=rows,
            row_length=config.row_length,
        )
        batch = Batch(
            block=block,
            ids=np.where(texts == NO_TEXT, NO_TEXT, store.text_ids[texts]).astype(np.int32),
            labels=store.labels[examples].astype(np.int32),
            place=np.arange(self.num_blocks, dtype=np.int32)[self._own],
            scores=None if self._scores is None else self._scores[examples],
        )
        tokens = int(plan.lengths.sum())
        computed = self.num_blocks * rows * config.row_length
        return PackedBatch(batch, config.batch_size, tokens, tokens / computed)

    def _texts(self, examples: Int[np.ndarray, "*B"]) -> Int[np.ndarray, "*B V"]:
        """Text numbers of each view of each example."""
        if self.config.views == "dropout":
            return np.repeat(self.store.examples[examples][..., :1], self.num_views, axis=-1)
        return self.store.examples[examples]

    def _lengths(self, texts: Int[np.ndarray, "*B V"]) -> Int[np.ndarray, "*B V"]:
        return np.where(texts == NO_TEXT, 0, self.store.lengths[texts])

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
    """The token store of a configuration, built if the cache does not have it.

    Raises:
        SimjaxError: see `token_store.build`.
    """
    return token_store.build(
        config.source,
        config.root_path,
        tokenizer,
        max_length=config.max_length,
        cache=config.cache_path,
        progress=progress,
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
