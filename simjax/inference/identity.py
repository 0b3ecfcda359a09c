"""Which model made embeddings: a digest of everything that decides them but the options."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from simjax.data.engine import copy_engine, written
from simjax.models.decoder import LATENTS
from simjax.models.latents import Latents
from simjax.models.sentence_model import SentenceModel, split
from simjax.postprocess.flow import Flow
from simjax.types import Params

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def fingerprint(
    model: SentenceModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    training_head: bool,
    flow: Flow | None = None,
    latents: Latents | None = None,
) -> str:
    """A digest of what makes embeddings; 32 hexadecimal digits.

    That is weights, architecture, pooling, flow and tokenizer; where embeddings are latents, these.
    The precision of the computation, the longest length and the scaling are not in it.
    """
    _, params = split(model)
    what: tuple[object, ...] = (
        model.config,
        model.pooling,
        training_head,
        tokenizer.truncation_side,
    )
    if flow is not None:
        what, params = (*what, flow.config), {**params, "flow": flow.tensors}
    if latents is not None:
        what, params = (*what, latents.config), {**params, LATENTS: split(latents)[1]}
    found = hashlib.sha256(repr(what).encode())
    # Not as it is: calls of the tokenizer switch padding and truncation on and off.
    found.update(written(copy_engine(tokenizer)).encode("utf-8", "surrogatepass"))
    _add(found, params)
    return found.hexdigest()[:32]


def digest(params: Params) -> str:
    """A digest of arrays and their names; 32 hexadecimal digits."""
    found = hashlib.sha256()
    _add(found, params)
    return found.hexdigest()[:32]


def _add(found: Any, params: Params) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.ascontiguousarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        found.update(array.reshape(-1).view(np.uint8).data)
