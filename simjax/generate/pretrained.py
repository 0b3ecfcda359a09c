"""What writes texts, from the folder of its model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from simjax.errors import SimjaxError
from simjax.sentence_encoder import SentenceEncoder


class Writer(ABC):
    """A model that writes texts in some way, for which it may lack a part."""

    @abstractmethod
    def __init__(self, encoder: SentenceEncoder) -> None:
        """Take the model apart.

        Raises:
            SimjaxError: It lacks what this writer writes with.
        """

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *, dtype: str = "float32") -> Self:
        """Load a model.

        Args:
            name_or_path: A folder that simjax exported, or a run folder.
            dtype: `float32` or `bfloat16`, the precision of the computation.

        Raises:
            SimjaxError: As of `SentenceEncoder.from_pretrained`, or it lacks what is written with.
        """
        encoder = SentenceEncoder.from_pretrained(name_or_path, dtype=dtype)
        try:
            return cls(encoder)
        except SimjaxError as error:
            raise SimjaxError(f"{name_or_path}: {error}") from error
