"""Contrastive sentence encoders in JAX: train at any batch size, export, encode, search.

Names are imported when they are first used, so that `import simjax` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from simjax.errors import SimjaxError, UsageError

if TYPE_CHECKING:
    from simjax.sentence_encoder import SentenceEncoder
    from simjax.train.config import RunConfig

__version__ = "0.1.0"

__all__ = ["RunConfig", "SentenceEncoder", "SimjaxError", "UsageError", "__version__"]

_HOMES = {
    "RunConfig": "simjax.train.config",
    "SentenceEncoder": "simjax.sentence_encoder",
}
_PARTS = (
    "checkpoint",
    "data",
    "eval",
    "export",
    "index",
    "inference",
    "lab",
    "mesh",
    "mine",
    "models",
    "objectives",
    "ops",
    "postprocess",
    "sentence_encoder",
    "train",
    "types",
)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _PARTS:
        return importlib.import_module(f"simjax.{name}")
    raise AttributeError(f"module 'simjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_PARTS})
