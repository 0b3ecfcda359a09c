"""A guide's embeddings of the training texts, made once and kept beside the token stores."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float32

from simjax.checkpoint import lock
from simjax.data import pipeline
from simjax.data.config import DataConfig
from simjax.data.token_store import TokenStore
from simjax.errors import SimjaxError
from simjax.inference import formats
from simjax.inference.bulk import encode_to_file
from simjax.inference.progress import progress
from simjax.sentence_encoder import SentenceEncoder


def embeddings(name: str, config: DataConfig, store: TokenStore) -> Float32[np.ndarray, "ids G"]:
    """Unit vectors of all texts of a store, one for each text id, memory-mapped.

    They are made on the devices of this process, unless the cache has them; a start that was
    stopped while it made them goes on where it was. Processes that share the cache wait for the
    one that makes them.

    Args:
        name: The guide: folder or hub id.
        config: What the store was made of.
        store: As of `pipeline.prepare`.

    Raises:
        SimjaxError: There is no such model, the texts have changed since the store was made, or
            the cache cannot be written.
    """
    try:
        guide = SentenceEncoder.from_pretrained(name, devices=jax.local_devices())
    except SimjaxError as error:
        raise SimjaxError(f"objective.guide.model: {error}") from error
    prompt = guide.prompts.get(guide.default_prompt or "", "")
    made_by = [guide.fingerprint(), guide.dtype, guide.max_length, prompt, store.fingerprint]
    key = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:32]
    path = config.cache_path / f"guide-{key}.npy"
    count = len(store.digests)
    with lock.waited_for(path.with_suffix(".lock")):
        vectors = _open(path, count)
        if vectors is None:
            _make(path, guide, config, store)
            vectors = _open(path, count)
    if vectors is None:
        raise SimjaxError(f"{path}: is damaged; remove it")
    return vectors


def _open(path: Path, count: int) -> Float32[np.ndarray, "ids G"] | None:
    try:
        vectors = formats.load_array(path)
    except (OSError, ValueError):
        return None
    whole = vectors.ndim == 2 and len(vectors) == count and vectors.dtype == np.float32
    return vectors if whole else None


def _make(path: Path, guide: SentenceEncoder, config: DataConfig, store: TokenStore) -> None:
    shown = jax.process_index() == 0
    with progress(len(store.digests), what="guide", shown=shown) as advance:
        encode_to_file(
            guide,
            pipeline.distinct_texts(config, store),
            path,
            name="the training texts",
            normalize=True,
            resumed=advance,
            advance=advance,
        )
