"""What training starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import jax.numpy as jnp
from flax import nnx

from simjax.errors import UsageError
from simjax.models import hf
from simjax.models.sentence_model import SentenceModel
from simjax.models.tokenizer import check_same_ids, check_tokenizer
from simjax.train.config import RunConfig
from simjax.train.update import check_shape

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


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


def make_model(config: RunConfig, tokenizer: PreTrainedTokenizerFast) -> Start:
    """The model that training starts from, and how it is to be used.

    Raises:
        SimjaxError: The folder is faulty, or the tokenizer does not fit the weights.
    """
    wanted = config.model
    dtype = jnp.dtype(wanted.dtype)
    if wanted.pretrained is not None:
        folder = hf.resolve(wanted.pretrained)
        loaded = hf.load(
            folder,
            pooling=wanted.pooling,
            dtype=dtype,
            dropout=wanted.dropout,
            random_head=wanted.random_head,
            seed=config.seed,
        )
        if loaded.flow is not None:
            raise UsageError(
                f"model.pretrained: {wanted.pretrained} has a flow, which fits its embeddings as "
                "they are; train the model that the flow was fitted on, and fit another afterwards"
            )
        check_tokenizer(tokenizer, loaded.model.config)
        if config.tokenizer.source is not None:
            check_same_ids(tokenizer, folder)
        check_shape(config, loaded.model.config)
        return Start(loaded.model, loaded.max_length, loaded.prompts, loaded.default_prompt)
    shape = dataclasses.replace(
        wanted.encoder, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id or 0
    )
    if wanted.dropout is not None:
        shape = dataclasses.replace(
            shape, hidden_dropout=wanted.dropout, attention_dropout=wanted.dropout
        )
    model = SentenceModel(
        shape, wanted.pooling or "mean", dtype=dtype, rngs=nnx.Rngs(params=config.seed)
    )
    # Positions beyond the training length are as random as at the start.
    return Start(model, config.data.text_length)
