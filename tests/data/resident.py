"""How much memory a data set takes while it is indexed, and while batches are made of it.

    python -m tests.data.resident 10000000 FOLDER

makes a file of so many short sentences in FOLDER, if it is not there, and prints bytes that the
process has beyond what it had with a small data set, and seconds.
"""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np
from transformers import BertTokenizerFast

from simjax.data import corpus, numbering, store_writer, token_store
from simjax.data.config import DataConfig
from simjax.data.disk_arrays import NpyWriter
from simjax.data.pipeline import BatchSource
from simjax.data.sources import Source
from simjax.data.store_writer import TOKENS
from simjax.data.token_store import TokenStore
from simjax.lab.bench.memory import highest, settle

WORDS = [a + b for a in ("ba", "ce", "di", "fo", "gu") for b in ("lan", "mer", "nis", "pot", "ruk")]
PHRASES = 10_000
SMALL = 2_000
BATCH = 4096


def write_sentences(path: Path, count: int) -> None:
    """Three phrases each, of one to four words; one in ten is said twice."""
    rng = np.random.default_rng(0)
    phrases = [" ".join(rng.choice(WORDS, n)) for n in rng.integers(1, 5, PHRASES)]
    draft = path.with_suffix(".draft")
    with draft.open("w") as file:
        for begin in range(0, count, SMALL):
            some = rng.integers(0, PHRASES, (min(SMALL, count - begin), 3))
            some[9::10] = some[8::10][: len(some[9::10])]
            file.writelines(f"{phrases[a]} {phrases[b]} {phrases[c]}\n" for a, b, c in some)
    draft.rename(path)


def config_of(folder: Path, count: int, *, drop_duplicates: bool = False) -> DataConfig:
    path = folder / f"{count}.txt"
    if not path.exists():
        write_sentences(path, count)
    return DataConfig(
        source=Source(path=str(path)),
        views="dropout",
        batch_size=min(BATCH, count // 4),
        block_size=4,
        row_length=64,
        max_length=32,
        cache=str(folder / "cache"),
        drop_duplicates=drop_duplicates,
    )


def vocabulary(folder: Path) -> BertTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join(special + WORDS) + "\n")
    return BertTokenizerFast(vocab=str(folder / "vocab.txt"))


def scaled(by: int) -> None:
    """Index portions that are so many times smaller, as if the data set were larger."""
    store_writer.CHUNK //= by
    store_writer.CHARACTERS //= by
    numbering.PART //= by


def write_store(folder: Path, count: int) -> TokenStore:
    """A store of made-up lengths and no content, as if so many sentences had been indexed."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    runs = [rng.integers(4, 16, min(10**6, count - n)) for n in range(0, count, 10**6)]
    columns = {
        "offsets": (np.int64, None),
        "text_ids": (np.int32, None),
        "digests": (np.uint64, 2),
        "examples": (np.int32, 1),
        "labels": (np.int32, None),
        "scores": (np.float32, None),
    }
    with ExitStack() as files:
        open_ = {
            name: files.enter_context(NpyWriter(folder / f"{name}.npy", *column))
            for name, column in columns.items()
        }
        open_["offsets"].append([0])
        end = 0
        for run in runs:
            texts = np.arange(open_["text_ids"].rows, open_["text_ids"].rows + len(run))
            open_["offsets"].append(end + np.cumsum(run))
            end += int(run.sum())
            open_["text_ids"].append(texts)
            open_["examples"].append(texts[:, None])
            open_["labels"].append(np.full(len(run), -1))
            open_["scores"].append(np.full(len(run), np.nan))
            open_["digests"].append(np.stack([texts, texts], 1))
    np.zeros(end, np.uint16).tofile(folder / TOKENS)
    marker = {"fingerprint": "made", "token_type": "uint16", "positives": 0, "label_names": []}
    store_writer.finish(folder, marker | {"skipped": 0, "repeated": 0, "sizes": [count]})
    store = token_store._open(folder, "made")
    assert store is not None
    return store


def make_batches(store: TokenStore, config: DataConfig, count: int) -> int:
    """Batches here and there, as runs that start and that go on make them; what they hold."""
    source = BatchSource(store, config)
    return sum(source[n * 10_007].tokens for n in range(count))


def grown(figures: dict[str, float], kind: str, work: Callable[[], object]) -> None:
    """Bytes that the process has more while it works than before, and seconds."""
    before, began = settle(), time.perf_counter()
    work()
    figures |= {kind: highest() - before, f"{kind}_seconds": time.perf_counter() - began}


def main(count: int, folder: Path, made: int = 0, scale: int = 1) -> dict[str, float]:
    """Figures of indexing `count` sentences, and of batches from a made-up store of `made`."""
    folder.mkdir(parents=True, exist_ok=True)
    scaled(scale)
    tokenizer = vocabulary(folder)
    figures: dict[str, float] = {}
    for drop in (False, True):
        small = config_of(folder, SMALL, drop_duplicates=drop)
        make_batches(corpus.prepare(small, tokenizer), small, 2)
    config = config_of(folder, count)
    distinct = config_of(folder, min(count, 200_000), drop_duplicates=True)
    grown(figures, "index", lambda: corpus.prepare(config, tokenizer))
    grown(figures, "index_distinct", lambda: corpus.prepare(distinct, tokenizer))
    store = corpus.prepare(config, tokenizer)
    if made:
        config = dataclasses.replace(config, batch_size=BATCH)
        store = write_store(folder / "made", made)
    grown(figures, "start", lambda: make_batches(store, config, 1))
    grown(figures, "batches", lambda: make_batches(store, config, 50))
    return figures


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:] if argument.isdigit()]
    print(json.dumps(main(numbers[0], Path(sys.argv[2]), *numbers[1:])))
