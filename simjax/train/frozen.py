"""A frozen model's embeddings of the training texts, made once and kept beside the token stores."""

from __future__ import annotations

import gc
import hashlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float32
from rich.console import Console

from simjax.data import corpus
from simjax.data.config import DataConfig
from simjax.data.token_store import TokenStore
from simjax.errors import SimjaxError
from simjax.inference import formats
from simjax.inference.bulk import encode_to_file
from simjax.inference.progress import progress
from simjax.models import hf
from simjax.processes import lock
from simjax.sentence_encoder import SentenceEncoder

LOCK = "frozen.lock"
_DECISIVE = (".json", ".txt", ".safetensors", ".model")
_ROWS = 1 << 16
_TOLERANCE = 1e-3


class Embedded(NamedTuple):
    """A frozen model's view of the training texts.

    Attributes:
        fingerprint: Same fingerprint, same vectors.
        vectors: Unit vectors, one for each text id, memory-mapped.
    """

    fingerprint: str
    vectors: Float32[np.ndarray, "ids G"]


def fingerprint(key: str, name: str, store: TokenStore) -> str:
    """Same fingerprint, same vectors: what is in the model's folder counts, its place does not.

    Args:
        key: Of the recipe, for complaints.
        name: The model: folder or hub id.
        store: What it embeds.

    Raises:
        SimjaxError: There is no such model.
    """
    try:
        folder = hf.resolve(name)
    except SimjaxError as error:
        raise SimjaxError(f"{key}: {error}") from error
    # "guide" since the first models that were asked for were guides, and their runs go on.
    digest = hashlib.sha256(f"guide {store.fingerprint}\n".encode())
    for path in sorted(folder.rglob("*")):
        if path.suffix in _DECISIVE and path.is_file():
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.relative_to(folder)} {content}\n".encode())
    return digest.hexdigest()[:32]


def embeddings(
    key: str, name: str, config: DataConfig, store: TokenStore, fits: Callable[[int], None]
) -> Embedded:
    """Unit vectors of all texts of a store.

    They are made on the devices of this process, unless the cache has them; a start that was
    stopped while it made them goes on where it was. Of processes that share the cache one makes
    them while the others wait; where its file system has no locks, each makes them for itself, and
    puts them in place when they are whole.

    Args:
        key: Of the recipe, for complaints.
        name: The model: folder or hub id.
        config: What the store was made of.
        store: As of `corpus.prepare`.
        fits: Gets the width of the model's embeddings before there are any, and raises what it
            has against it.

    Raises:
        SimjaxError: There is no such model, the texts have changed since the store was made, or
            the cache cannot be written.
    """
    digest = fingerprint(key, name, store)
    path = config.cache_path / f"frozen-{digest}.npy"
    count = len(store.digests)
    vectors = _open(path, count)
    if vectors is None:
        with lock.waited_for(config.cache_path / LOCK, _say_waiting):
            vectors = _open(path, count)
            if vectors is None:
                _make(path, name, config, store, fits)
                vectors = _open(path, count)
    if vectors is None:
        raise SimjaxError(f"{path}: is damaged; remove it")
    fits(vectors.shape[1])
    return Embedded(digest, vectors)


def _say_waiting(path: Path) -> None:
    if jax.process_index() == 0:
        console = Console(stderr=True)
        console.print(f"waiting for another process that embeds texts ({path})", soft_wrap=True)


def _open(path: Path, count: int) -> Float32[np.ndarray, "ids G"] | None:
    try:
        vectors = formats.load_array(path)
    except (OSError, ValueError):
        return None
    whole = vectors.ndim == 2 and len(vectors) == count and vectors.dtype == np.float32
    return vectors if whole else None


def _make(
    path: Path, name: str, config: DataConfig, store: TokenStore, fits: Callable[[int], None]
) -> None:
    # A name of this process's own: nothing is lost where a lock does not hold.
    draft = path.with_name(f"{path.stem}.{socket.gethostname()}-{jax.process_index()}.npy")
    model = SentenceEncoder.from_pretrained(name, devices=jax.local_devices())
    fits(model.request().width)
    shown = jax.process_index() == 0
    with progress(len(store.digests), what="texts", shown=shown) as advance:
        encode_to_file(
            model,
            corpus.distinct_texts(config, store),
            draft,
            name="the training texts",
            normalize=True,
            resumed=advance,
            advance=advance,
        )
    del model
    # Its weights would count as taken when what is left of the devices is asked for.
    gc.collect()
    made = formats.load_array(draft)
    for start in range(0, len(made), _ROWS):
        lengths = np.linalg.norm(made[start : start + _ROWS], axis=1)
        broken = np.flatnonzero(~(np.abs(lengths - 1) < _TOLERANCE))
        if len(broken):
            draft.unlink()
            raise SimjaxError(
                f"{name}: its embedding of training text {start + broken[0]} has length "
                f"{lengths[broken[0]]}, not 1: the model is broken"
            )
    draft.replace(path)
