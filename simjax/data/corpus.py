"""The texts of a configuration: all of them, each distinct one, and as one token store."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from simjax.data import token_store
from simjax.data.config import DataConfig
from simjax.data.disk_arrays import release
from simjax.data.identity import normalised, text_digest
from simjax.data.mixture import join
from simjax.data.paraphrases import check_ends, check_tokenizer
from simjax.data.remote_files import copied
from simjax.data.sources import prompted, read
from simjax.data.token_store import TokenStore
from simjax.errors import SimjaxError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_ROWS = 1 << 17
"""Examples that are looked at together."""


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
    elif config.views == "reconstruction":
        check_ends(tokenizer, config.views)
    stores: list[TokenStore] = []
    for index, source in enumerate(config.all_sources):
        done = sum(len(store.examples) for store in stores)
        with keys_of(config, index):
            store = token_store.build(
                copied(source, config.cache_path),
                config.root_path,
                tokenizer,
                max_length=config.text_length,
                cache=config.cache_path,
                drop_duplicates=config.drop_duplicates,
                progress=None if progress is None else partial(_told, progress, done),
            )
        stores.append(store)
    return join(stores, config.cache_path)


def _told(progress: Callable[[int], None], done: int, more: int) -> None:
    progress(done + more)


@dataclass(frozen=True)
class Texts:
    """All texts of a configuration's sources as they are tokenised, prompts included.

    Each iteration reads them anew.

    Attributes:
        config: The sources.

    Raises:
        SimjaxError: (while iterating) see `sources.read`.
    """

    config: DataConfig

    def __iter__(self) -> Iterator[str]:
        for index, source in enumerate(self.config.all_sources):
            with keys_of(self.config, index):
                files = copied(source, self.config.cache_path)
                for example in read(files, self.config.root_path):
                    yield from prompted(source, example)


def distinct_texts(config: DataConfig, store: TokenStore) -> Iterator[str]:
    """A text for every id of a store of `prepare`, in their order: the first one, without prompt.

    Raises:
        SimjaxError: see `sources.read`; or the sources are not those of the store any more.
    """
    found = 0
    for index, source in enumerate(config.all_sources):
        with keys_of(config, index):
            for example in read(copied(source, config.cache_path), config.root_path):
                for text in (example.anchor, *example.positives, *example.negatives):
                    if found == len(store.digests):
                        return
                    # Ids count first appearances, so the next new text is the next id's.
                    if text_digest(normalised(text)) == store.digests[found].tobytes():
                        found += 1
                        if found % _ROWS == 0:
                            release(store.digests)
                        yield text
    if found < len(store.digests):
        raise SimjaxError("the texts have changed since they were tokenised; start again")


@contextmanager
def keys_of(config: DataConfig, index: int) -> Iterator[None]:
    """Complaints about `data.source` name the source of the mixture that they are about."""
    try:
        yield
    except SimjaxError as error:
        if not config.sources:
            raise
        key = f"data.sources[{index}]"
        raise type(error)(re.sub(r"\bdata\.source\b", key, str(error))) from error
