"""The model of a recipe as shapes alone: no weights are read or drawn."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
from flax import nnx

from simjax.errors import SimjaxError, UsageError
from simjax.models import hf
from simjax.models.config import EncoderConfig
from simjax.models.decoder import HEAD
from simjax.models.heads import HeadConfig
from simjax.models.hf_config import config_from_hf
from simjax.models.lm_head import LanguageModelHead
from simjax.models.modules_json import Described, describe
from simjax.models.pooling import Pooling
from simjax.models.sentence_model import SentenceModel
from simjax.models.tensor_files import read_json_object
from simjax.models.tokenizer import load_tokenizer
from simjax.objectives.config import frozen_model
from simjax.objectives.masked_lm import Vocabulary
from simjax.train.config import RunConfig
from simjax.train.system import masks

# What the `config.json` of these models says, for plans that are made without a network.
_BERT_BASE = EncoderConfig(
    hidden_size=768, num_layers=12, num_heads=12, intermediate_size=3072, vocab_size=30522
)
_ROBERTA_BASE = dataclasses.replace(
    _BERT_BASE,
    family="roberta",
    vocab_size=50265,
    type_vocab_size=1,
    pad_token_id=1,
    layer_norm_eps=1e-5,
)


def _large(shape: EncoderConfig) -> EncoderConfig:
    return dataclasses.replace(
        shape, hidden_size=1024, num_layers=24, num_heads=16, intermediate_size=4096
    )


def _small(layers: int) -> EncoderConfig:
    return dataclasses.replace(
        _BERT_BASE, hidden_size=384, num_layers=layers, intermediate_size=1536
    )


KNOWN: dict[str, EncoderConfig] = {
    "google-bert/bert-base-uncased": _BERT_BASE,
    "google-bert/bert-large-uncased": _large(_BERT_BASE),
    "FacebookAI/roberta-base": _ROBERTA_BASE,
    "FacebookAI/roberta-large": _large(_ROBERTA_BASE),
    "microsoft/MiniLM-L12-H384-uncased": _small(12),
    "sentence-transformers/all-MiniLM-L6-v2": _small(6),
}


@dataclass(frozen=True)
class Shapes:
    """A model's shapes.

    Attributes:
        model: With `jax.ShapeDtypeStruct` for arrays.
        source: Where its shape is from, in words.
        guide_width: Of the embeddings of the guide that batches carry along; 0 without one.
    """

    model: SentenceModel
    source: str
    guide_width: int = 0

    @property
    def encoder(self) -> EncoderConfig:
        """The shape of the encoder."""
        return self.model.config


def abstract_model(config: RunConfig) -> Shapes:
    """The model that a recipe trains, and the width of its guide.

    Raises:
        SimjaxError: The `config.json` of one of them can neither be read nor had, and it is none
            of those that are known.
        UsageError: It has latents, whose steps are not known.
    """
    wanted = config.model
    if wanted.latents is not None:
        raise UsageError("objective.name vae is not planned for: only contrastive is")
    heads: tuple[HeadConfig, ...] = ()
    pooling: Pooling = wanted.pooling or "mean"
    if wanted.pretrained is None:
        shape, source = _random(config)
    else:
        shape, source, described = _pretrained(wanted.pretrained, "model.pretrained")
        if described is not None:
            pooling = wanted.pooling or described.pooling or "mean"
            heads = tuple(hf.head_config(head) for head in hf.dense_modules(described, pooling)[1])
    if wanted.dropout is not None:
        shape = dataclasses.replace(
            shape, hidden_dropout=wanted.dropout, attention_dropout=wanted.dropout
        )
    model = nnx.eval_shape(
        lambda: SentenceModel(
            shape, pooling, dtype=jnp.dtype(wanted.dtype), heads=heads, rngs=nnx.Rngs(0)
        )
    )
    return Shapes(model, source, _guide_width(config))


def _random(config: RunConfig) -> tuple[EncoderConfig, str]:
    """The shape of a random encoder, and where it is from."""
    shape = config.model.encoder
    words = _vocabulary_size(config)
    if words is None:
        source = f"model.encoder, with its {shape.vocab_size:,} tokens (the tokenizer is not here)"
        return shape, source
    return dataclasses.replace(shape, vocab_size=words), "model.encoder"


def abstract_heads(config: RunConfig, encoder: EncoderConfig) -> dict[str, LanguageModelHead]:
    """What is trained beside the model, as shapes."""
    if config.objective.mlm is None and config.objective.seq2seq is None:
        return {}
    return {HEAD: nnx.eval_shape(lambda: LanguageModelHead(encoder, rngs=nnx.Rngs(0)))}


def assumed_vocabulary(config: RunConfig, encoder: EncoderConfig) -> Vocabulary | None:
    """Of masked tokens, where there are any; which ones are special decides no shape."""
    if masks(config.objective) is None:
        return None
    return Vocabulary(encoder.vocab_size, encoder.vocab_size - 1, (encoder.pad_token_id,))


def _guide_width(config: RunConfig) -> int:
    if (frozen := frozen_model(config.objective)) is None:
        return 0
    shape, _, described = _pretrained(frozen[1], frozen[0])
    if described is None or not described.heads:
        return shape.hidden_size
    return described.heads[-1].weight.shape[0]


def is_here(name: str) -> bool:
    """Whether a model is a folder or in the hub's local cache, so that nothing need be fetched."""
    if Path(name).expanduser().exists():
        return True
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        return False


def _pretrained(name: str, key: str) -> tuple[EncoderConfig, str, Described | None]:
    """The shape of a pretrained encoder, where it is from, and what its folder says."""
    if Path(name).expanduser().exists():
        described = describe(hf.resolve(name))
        path = described.transformer / "config.json"
        return config_from_hf(read_json_object(path), path), str(path), described
    if name in KNOWN:
        return KNOWN[name], f"{name}, as published", None
    from huggingface_hub import hf_hub_download

    try:
        path = Path(hf_hub_download(name, "config.json"))
    except (OSError, ValueError) as error:
        raise SimjaxError(
            f"{key} {name}: its config.json cannot be had; give a folder, or one of "
            f"{', '.join(KNOWN)}, whose shapes are known without a network"
        ) from error
    return config_from_hf(read_json_object(path), path), str(path), None


def _vocabulary_size(config: RunConfig) -> int | None:
    """Tokens of a random encoder's table; None where its tokenizer is not here."""
    source = config.tokenizer.source
    if source == "train":
        return config.tokenizer.vocab_size
    if source is not None and Path(source).expanduser().exists():
        return len(load_tokenizer(source))
    return KNOWN[source].vocab_size if source in KNOWN else None
