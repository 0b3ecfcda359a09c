"""Which model made embeddings: a digest of everything that decides them but the options."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import jax
import numpy as np

from simjax.data.engine import copy_engine, written
from simjax.models.sentence_model import SentenceModel, split
from simjax.postprocess.flow import Flow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def fingerprint(
    model: SentenceModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    training_head: bool,
    flow: Flow | None = None,
) -> str:
    """A digest of weights, architecture, pooling, flow and tokenizer; 32 hexadecimal digits.

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
    digest = hashlib.sha256(repr(what).encode())
    # Not as it is: calls of the tokenizer switch padding and truncation on and off.
    digest.update(written(copy_engine(tokenizer)).encode("utf-8", "surrogatepass"))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:32]
