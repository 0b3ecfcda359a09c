"""What training starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from simjax.models.sentence_model import SentenceModel


@dataclass(frozen=True)
class Start:
    """A model before training, and how it is to be used.

    Attributes:
        model: The model.
        max_length: Tokens of a text; None if nothing but the model limits them.
        prompts: Texts that it can have before others, by name.
        default_prompt: Which of them it has when none is asked for.
    """

    model: SentenceModel
    max_length: int | None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
